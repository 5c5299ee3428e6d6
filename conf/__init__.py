"""The configuration tree, installed as the package ``nc_sweeps.conf``."""
