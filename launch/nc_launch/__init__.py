"""Where runs go: plans, submissions, workers, and the command ``nc-sweep``."""
