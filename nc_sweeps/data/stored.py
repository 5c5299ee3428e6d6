"""Makes a data set of what files hold: selects labels and samples of each class, and scales all samples alike."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from nc_sweeps.data.split import Dataset, Split
from nc_sweeps.errors import DataError


@dataclass(frozen=True)
class Stored:
    """The samples of a data set as they were read from files.

    Args:
        train, test: samples, (n, …) of any numbers, and their labels, (n,).
        relabel: the class in 0 … q−1 of each label that the files know; −1: samples of this label are left out.
        shape: shape of a sample.
        unit: number by which samples are divided.
        source: where the samples were read, for error messages.
    """

    train: tuple[np.ndarray, Int[np.ndarray, "n"]]
    test: tuple[np.ndarray, Int[np.ndarray, "m"]]
    relabel: Int[np.ndarray, "labels"]
    shape: tuple[int, ...]
    unit: float
    source: str

    def select(
        self,
        *,
        train_per_class: int | None,
        test_per_class: int | None,
        unit_ball: bool,
        generator: np.random.Generator,
    ) -> Dataset:
        """Return the data set of some of the samples.

        Args:
            train_per_class, test_per_class: number of random samples of each class, which come in class order; None:
                all samples, in their order.
            unit_ball: whether to divide by the largest norm of all samples.
            generator: source of randomness.

        Raises:
            DataError: a label is unknown, or a class has too few samples.
        """
        classes = int(self.relabel.max()) + 1
        splits = []
        for name, per_class in (("train", train_per_class), ("test", test_per_class)):
            x, found = getattr(self, name)
            if len(x) == 0 or found.min() < 0 or found.max() >= len(self.relabel):
                raise DataError(
                    f"{self.source}: the {name} set must have samples with labels in 0 … {len(self.relabel) - 1}"
                )
            labels = self.relabel[found]
            if (labels < 0).any():
                x, labels = x[labels >= 0], labels[labels >= 0]
            missing = np.flatnonzero(np.bincount(labels, minlength=classes) == 0)
            if len(missing):
                raise DataError(f"{self.source}: the {name} set has no sample of class {missing[0]}")
            if per_class is not None:
                chosen = draw_per_class(labels, per_class, generator, f"dataset.{name}_per_class")
                x, labels = x[chosen], labels[chosen]
            x = x.reshape(len(x), -1).astype(np.float64)
            x /= self.unit
            splits.append(Split(x, labels))
        return make_dataset(splits[0], splits[1], classes, self.shape, unit_ball)


def make_missing_error(data_dir: str, folder: str, name: str) -> DataError:
    """Return the error for a data set that is missing; it says how to get the data set.

    Args:
        data_dir: folder of all data sets.
        folder: folder of this data set in ``data_dir``.
        name: name of its class in torchvision.
    """
    command = f'python -c "from torchvision.datasets import {name}; {name}({data_dir!r}, download=True)"'
    return DataError(
        f"data_dir={data_dir}: no {name} in {data_dir}/{folder}; get it with {command} or set data_dir (or "
        f"NC_SWEEPS_DATA) to the folder that holds {folder}"
    )


def draw_per_class(
    labels: Int[np.ndarray, "n"], per_class: int, generator: np.random.Generator, key: str
) -> Int[np.ndarray, "chosen"]:
    """Return the indices of ``per_class`` random samples of every class, in class order.

    Args:
        labels: classes 0 … q−1 of the samples.
        per_class: number of samples of each class.
        generator: source of randomness.
        key: key of the configuration that asks for them, for error messages.

    Raises:
        DataError: a class has fewer samples.
    """
    chosen = []
    for k in range(labels.max() + 1):
        members = np.flatnonzero(labels == k)
        if len(members) < per_class:
            raise DataError(f"{key}={per_class}: class {k} has only {len(members)} samples to draw from")
        chosen.append(generator.choice(members, per_class, replace=False))
    return np.concatenate(chosen)


def make_dataset(train: Split, test: Split, classes: int, shape: tuple[int, ...], unit_ball: bool) -> Dataset:
    """Return the data set of some samples, which it can scale into the unit ball.

    Args:
        train, test: samples, which are scaled in place.
        classes: number of classes q.
        shape: shape of a sample.
        unit_ball: whether to divide by the largest norm of all samples.
    """
    if unit_ball:
        # Slightly more than the largest norm, so that ‖x‖ ≤ 1 survives rounding to float32.
        radius = max(float(np.linalg.norm(split.x, axis=1).max()) for split in (train, test)) * (1 + 1e-6)
        for split in (train, test):
            np.divide(split.x, radius or 1.0, out=split.x)
    return Dataset(train, test, classes, shape)
