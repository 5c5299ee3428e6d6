"""The Gibbs oracle: the infinite-width optimum of stage 1, computed to a certified accuracy."""
