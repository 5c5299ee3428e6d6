"""Launching of sweeps: plans, submissions, backends, and the command ``nc-sweep``."""
