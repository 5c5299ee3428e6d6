"""The flow on an ensemble of particles and its discretisations."""
