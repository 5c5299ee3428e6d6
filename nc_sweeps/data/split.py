"""What every data set is made of: labelled samples, as rows."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Split:
    """Samples and their labels.

    Args:
        x: inputs, (n, d), float64.
        labels: class of each sample, (n,), int64 in 0 … q−1.
    """

    x: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, "n"]


@dataclass(frozen=True)
class Dataset:
    """A training set, a held-out test set, and the number of classes."""

    train: Split
    test: Split
    classes: int
