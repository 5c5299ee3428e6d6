"""Publishing on Weights & Biases, from the store."""
