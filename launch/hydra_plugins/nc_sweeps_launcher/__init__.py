"""Hydra launchers of nc-sweeps."""
