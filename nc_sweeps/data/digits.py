"""Splits the digits of scikit-learn."""

import numpy as np

from nc_sweeps.data.split import Dataset, Split
from nc_sweeps.data.stored import draw_per_class, make_dataset


def split_digits(
    *, train_per_class: int | None, test_per_class: int | None, unit_ball: bool, generator: np.random.Generator
) -> Dataset:
    """Split the 1,797 digits of scikit-learn, 8×8 pixels, at random into a training and a held-out test set.

    Args:
        train_per_class: number of training samples of each class; None: four fifths of the rarest class.
        test_per_class: number of test samples of each class, drawn from the rest; None: all the rest.
        unit_ball: whether to divide by the largest norm of all samples.
        generator: source of randomness.

    Raises:
        DataError: a class has too few samples.
    """
    from sklearn.datasets import load_digits

    x, labels = load_digits(return_X_y=True)
    x = x / 16.0
    if train_per_class is None:
        train_per_class = int(0.8 * np.bincount(labels).min())
    chosen = draw_per_class(labels, train_per_class, generator, "dataset.train_per_class")
    rest = np.setdiff1d(np.arange(len(labels)), chosen)
    held_out = rest
    if test_per_class is not None:
        held_out = rest[draw_per_class(labels[rest], test_per_class, generator, "dataset.test_per_class")]
    return make_dataset(
        Split(x[chosen], labels[chosen]), Split(x[held_out], labels[held_out]), 10, (1, 8, 8), unit_ball
    )
