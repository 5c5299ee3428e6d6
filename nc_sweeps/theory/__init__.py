"""Statements about neural collapse, as functions of tensors."""
