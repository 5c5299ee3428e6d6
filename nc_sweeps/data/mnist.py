"""Reads MNIST and Fashion-MNIST from their four idx files."""

from pathlib import Path

import numpy as np

from nc_sweeps.data.stored import Stored, make_missing_error
from nc_sweeps.errors import DataError


def read_mnist(*, name: str, data_dir: str, modulus: int | None = None) -> Stored:
    """Read one of the data sets of 28×28 grey pixels in ten classes.

    Args:
        name: name of its class in torchvision, MNIST or FashionMNIST.
        data_dir: folder that holds ``<name>/raw``.
        modulus: the new label is the label modulo this number; None: the ten labels stay.

    Raises:
        DataError: a file is missing or damaged.
    """
    return Stored(
        train=_read_split(name, data_dir, train=True),
        test=_read_split(name, data_dir, train=False),
        relabel=np.arange(10) % (modulus or 10),
        shape=(1, 28, 28),
        unit=255.0,
        source=str(Path(data_dir, name, "raw")),
    )


def _read_split(name: str, data_dir: str, *, train: bool) -> tuple[np.ndarray, np.ndarray]:
    from torchvision import datasets

    folder = Path(data_dir, name, "raw")
    try:
        data = getattr(datasets, name)(root=data_dir, train=train, download=False)
    except (RuntimeError, OSError, ValueError, TypeError, KeyError, AssertionError) as error:
        # torchvision raises the same error for a missing file and a missing folder; a short file fails in reshaping.
        if "not found" in str(error):
            raise make_missing_error(data_dir, f"{name}/raw", name) from error
        raise DataError(f"{folder}: a file is damaged ({error}); put the original file in its place") from error
    if tuple(data.data.shape[1:]) != (28, 28) or len(data.targets) != len(data.data):
        raise DataError(
            f"{folder}: expected images of 28×28 pixels with as many labels, found "
            f"{tuple(data.data.shape)} and {len(data.targets)}"
        )
    return data.data.numpy(), data.targets.numpy()
