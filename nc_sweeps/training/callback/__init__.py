"""The callback that measures neural collapse in any Lightning module while Lightning trains it."""
