"""``nc-features``: the features that a trained network of torchvision has of a data set of images."""
