"""Measure what the package costs, beside other ways of doing the same: ``python -m benchmarks``."""
