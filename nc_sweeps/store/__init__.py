"""The store: every number that a run produces, on disk, valid at any moment."""
