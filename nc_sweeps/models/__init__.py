"""Networks: mean-field ensembles and deep networks."""
