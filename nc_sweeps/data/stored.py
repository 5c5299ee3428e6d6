"""What files hold, and how a data set is made of it: labels that are asked for, samples of each class, one scale."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from nc_sweeps.data.split import Dataset, Split
from nc_sweeps.errors import DataError


@dataclass(frozen=True)
class Stored:
    """All samples of a data set as they were read.

    Args:
        train, test: samples, (n, …) of any numbers, and their labels, (n,).
        relabel: the class in 0 … q−1 of each label that the files know; −1: samples of this label are left out.
        shape: of a sample.
        unit: samples are divided by it.
        source: where they were read, for errors.
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
        """The data set of some of the samples.

        Args:
            train_per_class, test_per_class: random samples of each class, in class order; None: all, in their order.
            unit_ball: divide by the largest norm of all samples.
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
                chosen = balanced(labels, per_class, generator, f"dataset.{name}_per_class")
                x, labels = x[chosen], labels[chosen]
            x = x.reshape(len(x), -1).astype(np.float64)
            x /= self.unit
            splits.append(Split(x, labels))
        return scaled(splits[0], splits[1], classes, self.shape, unit_ball)


def absent(data_dir: str, folder: str, name: str) -> DataError:
    """The error for a data set that is not there: how to get it.

    Args:
        data_dir: where it was looked for.
        folder: where it would lie in there.
        name: of the data set's class in torchvision.
    """
    command = f'python -c "from torchvision.datasets import {name}; {name}({data_dir!r}, download=True)"'
    return DataError(
        f"data_dir={data_dir}: no {name} in {data_dir}/{folder}; get it with {command} or set data_dir (or "
        f"NC_SWEEPS_DATA) to the folder that holds {folder}"
    )


def balanced(
    labels: Int[np.ndarray, "n"], per_class: int, generator: np.random.Generator, key: str
) -> Int[np.ndarray, "chosen"]:
    """Indices of ``per_class`` random samples of every class, in class order.

    Args:
        labels: classes 0 … q−1.
        per_class: how many of each.
        generator: source of randomness.
        key: that asks for so many, for errors.

    Raises:
        DataError: a class has fewer.
    """
    chosen = []
    for k in range(labels.max() + 1):
        members = np.flatnonzero(labels == k)
        if len(members) < per_class:
            raise DataError(f"{key}={per_class}: class {k} has only {len(members)} samples to draw from")
        chosen.append(generator.choice(members, per_class, replace=False))
    return np.concatenate(chosen)


def scaled(train: Split, test: Split, classes: int, shape: tuple[int, ...], unit_ball: bool) -> Dataset:
    """A data set, divided by the largest norm of all its samples if ``unit_ball``.

    Args:
        train, test: samples, which are changed in place.
        classes: q.
        shape: of a sample.
        unit_ball: whether to scale.
    """
    if unit_ball:
        # A hair more than the largest norm: ‖x‖ ≤ 1 must survive rounding to float32.
        radius = max(float(np.linalg.norm(split.x, axis=1).max()) for split in (train, test)) * (1 + 1e-6)
        for split in (train, test):
            np.divide(split.x, radius or 1.0, out=split.x)
    return Dataset(train, test, classes, shape)
