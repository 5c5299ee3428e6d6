"""MNIST and Fashion-MNIST, from the four idx files of each."""

from pathlib import Path

import numpy as np

from nc_sweeps.data.stored import Stored, absent
from nc_sweeps.errors import DataError


def mnist(*, name: str, data_dir: str, modulus: int | None = None) -> Stored:
    """One of the data sets of 28×28 grey pixels in ten classes.

    Args:
        name: of its class in torchvision: MNIST, FashionMNIST.
        data_dir: folder that holds ``<name>/raw``.
        modulus: new label = label mod modulus; None keeps the ten.

    Raises:
        DataError: a file is missing or damaged.
    """
    return Stored(
        train=_read(name, data_dir, train=True),
        test=_read(name, data_dir, train=False),
        relabel=np.arange(10) % (modulus or 10),
        shape=(1, 28, 28),
        unit=255.0,
        source=str(Path(data_dir, name, "raw")),
    )


def _read(name: str, data_dir: str, *, train: bool) -> tuple[np.ndarray, np.ndarray]:
    from torchvision import datasets

    folder = Path(data_dir, name, "raw")
    try:
        data = getattr(datasets, name)(root=data_dir, train=train, download=False)
    except (RuntimeError, OSError, ValueError, TypeError, KeyError, AssertionError) as error:
        # torchvision says the same of a missing file and of a missing folder; a short file fails in reshaping.
        if "not found" in str(error):
            raise absent(data_dir, f"{name}/raw", name) from error
        raise DataError(f"{folder}: a file is damaged ({error}); put the original file in its place") from error
    if tuple(data.data.shape[1:]) != (28, 28) or len(data.targets) != len(data.data):
        raise DataError(
            f"{folder}: expected images of 28×28 pixels with as many labels, found "
            f"{tuple(data.data.shape)} and {len(data.targets)}"
        )
    return data.data.numpy(), data.targets.numpy()
