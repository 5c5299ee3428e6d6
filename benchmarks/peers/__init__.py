"""The same networks trained as others would train them, one way a module."""
