"""Where runs are shown to others: Weights & Biases, fed from the store."""
