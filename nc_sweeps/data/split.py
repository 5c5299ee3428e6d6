"""`Split` and `Dataset`: labelled samples as rows, for training and for testing."""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from jaxtyping import Float, Int
from threadpoolctl import ThreadpoolController

from nc_sweeps.data import separability


@dataclass(frozen=True)
class Split:
    """Samples with their labels.

    Args:
        x: inputs, (n, d), float64.
        labels: class of each sample, (n,), int64 in 0 … q−1.
    """

    x: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, "n"]


@dataclass(frozen=True)
class Dataset:
    """A data set: training samples, held-out test samples, and the number of classes.

    Args:
        train, test: samples as rows.
        classes: number of classes q.
        shape: shape of a sample, such as (channels, height, width) of an image, of which a row is the flat form.
    """

    train: Split
    test: Split
    classes: int
    shape: tuple[int, ...]

    @cached_property
    def margin(self) -> float:
        """Largest margin of the training set, as :func:`nc_sweeps.data.separability.find_margin` defines it."""
        # The products are small: NumPy threads beside those of torch cost ten times what they gain.
        with _find_libraries().limit(limits=1):
            return separability.find_margin(self.train.x, self.train.labels, self.classes)


@cache
def _find_libraries() -> ThreadpoolController:
    """Return the libraries with threads that this process has loaded; to look them up takes as long as a margin."""
    return ThreadpoolController()
