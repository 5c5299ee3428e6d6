"""What every data set is made of: labelled samples, as rows."""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from jaxtyping import Float, Int
from threadpoolctl import ThreadpoolController

from nc_sweeps.data import separability


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
    """A training set, a held-out test set, and the number of classes.

    Args:
        train, test: samples as rows.
        classes: q.
        shape: that a row stands for, such as (channels, height, width) of an image; its product is d.
    """

    train: Split
    test: Split
    classes: int
    shape: tuple[int, ...]

    @cached_property
    def margin(self) -> float:
        """Largest margin of the training set; see :mod:`nc_sweeps.data.separability`."""
        # Small products in NumPy: threads that meet those of torch cost ten times what they gain.
        with _libraries().limit(limits=1):
            return separability.margin(self.train.x, self.train.labels, self.classes)


@cache
def _libraries() -> ThreadpoolController:
    """The libraries with threads that this process has loaded, looked up once: that takes as long as a margin."""
    return ThreadpoolController()
