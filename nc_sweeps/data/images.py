"""Data sets of images: scikit-learn's digits, and MNIST from its four files."""

from pathlib import Path

import numpy as np
from jaxtyping import Int

from nc_sweeps.data.split import Dataset, Split
from nc_sweeps.errors import DataError


def digits(
    *, train_per_class: int | None, test_per_class: int | None, unit_ball: bool, generator: np.random.Generator
) -> Dataset:
    """scikit-learn's 1,797 digits of 8×8 pixels, split at random into a training and a held-out test set.

    Args:
        train_per_class: training samples of each class; None: four fifths of the rarest class.
        test_per_class: test samples of each class, drawn from the rest; None: all the rest.
        unit_ball: divide by the largest norm of all samples.
        generator: source of randomness.

    Raises:
        DataError: a class has too few samples.
    """
    from sklearn.datasets import load_digits

    x, labels = load_digits(return_X_y=True)
    x = x / 16.0
    if train_per_class is None:
        train_per_class = int(0.8 * np.bincount(labels).min())
    chosen = _balanced(labels, train_per_class, generator, "dataset.train_per_class")
    rest = np.setdiff1d(np.arange(len(labels)), chosen)
    held_out = rest
    if test_per_class is not None:
        held_out = rest[_balanced(labels[rest], test_per_class, generator, "dataset.test_per_class")]
    return _scaled(Split(x[chosen], labels[chosen]), Split(x[held_out], labels[held_out]), 10, (1, 8, 8), unit_ball)


def mnist(
    *,
    data_dir: str,
    modulus: int | None,
    train_per_class: int | None,
    test_per_class: int | None,
    unit_ball: bool,
    generator: np.random.Generator,
) -> Dataset:
    """MNIST with pixels in [0, 1], labels optionally modulo some number.

    Args:
        data_dir: folder that holds ``MNIST/raw``.
        modulus: new label = digit mod modulus; None keeps the digits.
        train_per_class, test_per_class: random samples of each (new) class; None: all.
        unit_ball: divide by the largest norm of all samples.
        generator: source of randomness.

    Raises:
        DataError: a file is missing or damaged, or a class has too few samples.
    """
    splits = []
    for train, per_class in ((True, train_per_class), (False, test_per_class)):
        x, labels = _read_mnist(data_dir, train)
        labels = labels % modulus if modulus else labels
        if per_class is not None:
            name = f"dataset.{'train' if train else 'test'}_per_class"
            chosen = _balanced(labels, per_class, generator, name)
            x, labels = x[chosen], labels[chosen]
        splits.append(Split(x.reshape(len(x), -1).astype(np.float64) / 255.0, labels))
    return _scaled(splits[0], splits[1], modulus or 10, (1, 28, 28), unit_ball)


def _read_mnist(data_dir: str, train: bool) -> tuple[np.ndarray, np.ndarray]:
    from torchvision.datasets import MNIST

    folder = Path(data_dir, "MNIST", "raw")
    expected = (60000 if train else 10000, 28, 28)
    try:
        data = MNIST(root=data_dir, train=train, download=False)
    except (RuntimeError, OSError, ValueError, AssertionError) as error:
        # torchvision says the same of a missing file and of a missing folder; a short file fails in reshaping.
        if "not found" in str(error):
            raise DataError(
                f"data_dir={data_dir}: no MNIST in {folder}; set data_dir (or NC_SWEEPS_DATA) to the folder that holds "
                "MNIST/raw with its four ubyte files"
            ) from error
        raise DataError(f"{folder}: an MNIST file is damaged ({error}); put the original file in its place") from error
    if tuple(data.data.shape) != expected or len(data.targets) != expected[0]:
        found = (tuple(data.data.shape), len(data.targets))
        raise DataError(f"{folder}: expected images {expected} with as many labels, found {found}")
    return data.data.numpy(), data.targets.numpy()


def _balanced(
    labels: Int[np.ndarray, "n"], per_class: int, generator: np.random.Generator, key: str
) -> Int[np.ndarray, "chosen"]:
    """Indices of ``per_class`` random samples of every class, in class order."""
    chosen = []
    for k in range(labels.max() + 1):
        members = np.flatnonzero(labels == k)
        if len(members) < per_class:
            raise DataError(f"{key}={per_class}: class {k} has only {len(members)} samples to draw from")
        chosen.append(generator.choice(members, per_class, replace=False))
    return np.concatenate(chosen)


def _scaled(train: Split, test: Split, classes: int, shape: tuple[int, ...], unit_ball: bool) -> Dataset:
    if unit_ball:
        # A hair more than the largest norm: ‖x‖ ≤ 1 must survive rounding to float32.
        radius = max(np.linalg.norm(split.x, axis=1).max() for split in (train, test)) * (1 + 1e-6)
        train, test = Split(train.x / radius, train.labels), Split(test.x / radius, test.labels)
    return Dataset(train, test, classes, shape)
