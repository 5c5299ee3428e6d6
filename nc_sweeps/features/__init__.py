"""``nc-features``: what a trained network of torchvision sees in a data set of images."""
