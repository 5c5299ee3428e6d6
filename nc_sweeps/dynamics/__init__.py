"""The flow of an ensemble of mean-field networks, and its discretisations."""
