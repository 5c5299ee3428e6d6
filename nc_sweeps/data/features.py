"""Features of another network, as data: a safetensors file of four tensors.

==================  =======  =======================================================
``train_features``  (n, d)   float16, float32 or float64, finite
``train_labels``    (n,)     whole numbers 0 … q−1, each of which occurs
``test_features``   (m, d)   as for training
``test_labels``     (m,)     as for training
==================  =======  =======================================================

Such a file executes nothing when it is read, and its labels can be read alone. Its metadata, text, may say where the
features come from.
"""

import hashlib
import json
from functools import cache
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from nc_sweeps.data.stored import Stored
from nc_sweeps.errors import DataError

Labelled = tuple[np.ndarray, np.ndarray]


def features(path: str, digest: str) -> Stored:
    """The features and labels of a file.

    Args:
        path: of the file.
        digest: that it must have, from :func:`digest_of`.

    Raises:
        DataError: the file is missing, damaged, another one, or holds what is no data set.
    """
    if digest_of(path) != digest:
        raise DataError(f"{path}: is not the file that was asked for: its SHA-256 is not dataset.digest={digest}")
    train, test = (_labelled(path, name) for name in ("train", "test"))
    dimension = train[0].shape[1]
    if test[0].shape[1] != dimension:
        raise DataError(f"{path}: train_features have {dimension} columns and test_features {test[0].shape[1]}")
    return Stored(train, test, np.arange(classes_of(path)), (dimension,), 1.0, path)


def classes_of(path: str) -> int:
    """Number of classes q in a file: one more than the largest label of the training set.

    Args:
        path: of the file.

    Raises:
        DataError: the file is missing, or damaged.
    """
    return int(_tensor(path, "train_labels", "ui", 1).max()) + 1


def digest_of(path: str) -> str:
    """SHA-256 of a file, in hexadecimal.

    Args:
        path: of the file.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        state = Path(path).stat()
        return _digest(path, state.st_size, state.st_mtime_ns, state.st_ino)
    except OSError as error:
        raise _unreadable(path, error) from error


@cache  # every run of a sweep asks; the state tells whether the file is still the same
def _digest(path: str, *state: int) -> str:  # noqa: ARG001
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def serialised(train: Labelled, test: Labelled, origin: dict[str, str]) -> bytes:
    """A file of features.

    Args:
        train, test: features, (n, d), and labels, (n,).
        origin: where they come from, for the metadata.
    """
    tensors = {"train_features": train[0], "train_labels": train[1], "test_features": test[0], "test_labels": test[1]}
    # One entry: safetensors writes several in an order that changes from file to file.
    return save(tensors, {"origin": json.dumps(origin)})


def _labelled(path: str, name: str) -> Labelled:
    x = _tensor(path, f"{name}_features", "f", 2)
    labels = _tensor(path, f"{name}_labels", "ui", 1)
    if len(x) != len(labels):
        raise DataError(f"{path}: {len(x)} rows of {name}_features and {len(labels)} of {name}_labels")
    if not np.isfinite(x).all():
        raise DataError(f"{path}: {name}_features has entries that are NaN or infinite")
    return x, labels.astype(np.int64)


def _tensor(path: str, name: str, kinds: str, dimensions: int) -> np.ndarray:
    """One tensor of a file, of some kinds of numbers and with at least one entry."""
    try:
        with safe_open(path, framework="numpy") as file:
            if name not in file.keys():  # noqa: SIM118 (not a dict)
                raise DataError(f"{path}: has no {name}; a file of features is described in docs/data.md")
            found: np.ndarray = file.get_tensor(name)
    except (OSError, SafetensorError, TypeError, ValueError, AttributeError) as error:
        raise _unreadable(path, error) from error
    if found.dtype.kind not in kinds or found.ndim != dimensions or not found.size:
        kind = {"f": "floating-point", "ui": "whole"}[kinds]
        raise DataError(
            f"{path}: {name} must hold {kind} numbers in {dimensions} dimensions, found {found.dtype} {found.shape}"
        )
    return found


def _unreadable(path: str, error: Exception) -> DataError:
    if not path:
        return DataError("dataset.path: set it to a file of features, as nc-features writes it")
    if isinstance(error, FileNotFoundError):
        return DataError(f"dataset.path={path}: no such file; nc-features writes it")
    return DataError(f"dataset.path={path}: cannot be read ({str(error).splitlines()[0]})")
