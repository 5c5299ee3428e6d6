"""Reads CIFAR-10 and CIFAR-100 from the files of their Python version, which is the one that torchvision downloads.

Those files are pickles, and unpickling executes what a file asks for. This module imports nothing that a file names. A
pickled array names three things of NumPy; the classes below stand for them and hold bytes. Any other name is refused.
"""

import math
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nc_sweeps.config.datasets import SUPERCLASSES
from nc_sweeps.data.stored import Stored, make_missing_error
from nc_sweeps.errors import DataError

_SHAPE = (3, 32, 32)


def read_cifar10(*, data_dir: str) -> Stored:
    """Read the ten classes of CIFAR-10.

    Args:
        data_dir: folder that holds ``cifar-10-batches-py``.

    Raises:
        DataError: a file is missing or damaged.
    """
    folder = Path(data_dir, "cifar-10-batches-py")
    parts = [_read_batch(folder, f"data_batch_{number}", "labels", "CIFAR10") for number in range(1, 6)]
    train = np.concatenate([x for x, _ in parts]), np.concatenate([labels for _, labels in parts])
    test = _read_batch(folder, "test_batch", "labels", "CIFAR10")
    return Stored(train, test, np.arange(10), _SHAPE, 255.0, str(folder))


def read_cifar100(*, data_dir: str, superclass: bool, superclasses: Sequence[str] = ()) -> Stored:
    """Read the hundred fine classes of CIFAR-100, its twenty super-classes, or some of these.

    Args:
        data_dir: folder that holds ``cifar-100-python``.
        superclass: whether the labels are the super-classes.
        superclasses: super-classes that are kept, relabelled 0 … q−1 in this order; empty: all.

    Raises:
        DataError: a file is missing or damaged.
    """
    folder = Path(data_dir, "cifar-100-python")
    key = "coarse_labels" if superclass else "fine_labels"
    train, test = (_read_batch(folder, name, key, "CIFAR100") for name in ("train", "test"))
    relabel = np.arange(len(SUPERCLASSES) if superclass else 100)
    if superclasses:
        relabel = np.full(len(SUPERCLASSES), -1)
        relabel[[SUPERCLASSES.index(name) for name in superclasses]] = np.arange(len(superclasses))
    return Stored(train, test, relabel, _SHAPE, 255.0, str(folder))


def _read_batch(folder: Path, name: str, key: str, data_set: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels (n, 3072), channel by channel, and the labels of one file."""
    path = folder / name
    try:
        with path.open("rb") as file:
            content = _Unpickler(file, encoding="bytes").load()
        entries = {_decode(entry): value for entry, value in content.items()}
        pixels, labels = entries["data"].array, np.array(entries[key])
    except FileNotFoundError:
        raise make_missing_error(str(folder.parent), folder.name, data_set) from None
    except Exception as error:  # a damaged pickle can fail in any way
        problem = f"{type(error).__name__}: {error}"
        raise DataError(f"{path}: damaged ({problem}); put the original file in its place") from error
    if pixels.shape != (len(labels), math.prod(_SHAPE)) or labels.ndim != 1 or labels.dtype.kind != "i":
        found = f"{pixels.shape} and {labels.dtype} {labels.shape}"
        raise DataError(f"{path}: expected n×{math.prod(_SHAPE)} bytes and n whole numbers in {key}, found {found}")
    return pixels, labels


class _Type:
    """A stand-in for ``numpy.dtype``."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = _decode(code)

    def __setstate__(self, state: Any) -> None:
        """Ignore byte order and flags: only bytes are read, for which they do not matter."""


class _Array:
    """A stand-in for the array that NumPy makes empty and then fills."""

    array: np.ndarray

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, column_major, content = state
        if kind.code not in {"u1", "B"} or column_major:
            raise ValueError("an array of other things than bytes in rows")
        self.array = np.frombuffer(content, np.uint8).reshape(shape)


class _Unpickler(pickle.Unpickler):
    """An unpickler that reads containers, numbers, text and arrays of bytes, and executes nothing."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name; only the names of which an array is made are known."""
        match module, name:
            case (("numpy.core.multiarray" | "numpy._core.multiarray"), "_reconstruct"):
                return _Array
            case "numpy", "ndarray":
                return None  # the type that NumPy would make
            case "numpy", "dtype":
                return _Type
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no data set needs")


def _decode(value: Any) -> str:
    """Return text that Python 2 may have stored as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)
