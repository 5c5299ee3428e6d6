"""Measures of collapse, balance and error: pure functions of tensors, and the catalogue of their names."""
