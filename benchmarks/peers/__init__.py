"""The same networks trained in the ways of others, each in a module of its own."""
