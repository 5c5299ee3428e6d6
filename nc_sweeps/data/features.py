"""Reads and writes features of another network, as data: a safetensors file of four tensors.

==================  =======  =======================================================
``train_features``  (n, d)   float16, float32 or float64, finite
``train_labels``    (n,)     whole numbers 0 … q−1, each of which occurs
``test_features``   (m, d)   as for training
``test_labels``     (m,)     as for training
==================  =======  =======================================================

Reading such a file executes nothing, and its labels can be read alone. Its metadata, a text, may say where the features
come from.
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

LabelledFeatures = tuple[np.ndarray, np.ndarray]


def read_features(path: str, digest: str) -> Stored:
    """Read the features and labels of a file.

    Args:
        path: path of the file.
        digest: SHA-256 that the file must have; see :func:`hash_file`.

    Raises:
        DataError: the file is missing or damaged, has another digest, or does not hold a data set.
    """
    if hash_file(path) != digest:
        raise DataError(f"{path}: is not the file that was asked for: its SHA-256 is not dataset.digest={digest}")
    train, test = (_read_labelled(path, name) for name in ("train", "test"))
    dimension = train[0].shape[1]
    if test[0].shape[1] != dimension:
        raise DataError(f"{path}: train_features have {dimension} columns and test_features {test[0].shape[1]}")
    return Stored(train, test, np.arange(count_classes(path)), (dimension,), 1.0, path)


def count_classes(path: str) -> int:
    """Return the number of classes q in a file: one more than the largest label of the training set.

    Args:
        path: path of the file.

    Raises:
        DataError: the file is missing, or damaged.
    """
    return int(_read_tensor(path, "train_labels", "ui", 1).max()) + 1


def hash_file(path: str) -> str:
    """Return the SHA-256 of a file, in hexadecimal.

    Args:
        path: path of the file.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        state = Path(path).stat()
        return _hash_content(path, state.st_size, state.st_mtime_ns, state.st_ino)
    except OSError as error:
        raise _make_unreadable_error(path, error) from error


@cache  # every run of a sweep asks; the arguments change when the file does
def _hash_content(path: str, *state: int) -> str:  # noqa: ARG001
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def serialise_features(train: LabelledFeatures, test: LabelledFeatures, origin: dict[str, str]) -> bytes:
    """Return the content of a file of features.

    Args:
        train, test: features, (n, d), and labels, (n,).
        origin: where the features come from, for the metadata.
    """
    tensors = {"train_features": train[0], "train_labels": train[1], "test_features": test[0], "test_labels": test[1]}
    # All of it in one entry: safetensors writes several in an order that changes from file to file.
    return save(tensors, {"origin": json.dumps(origin)})


def _read_labelled(path: str, name: str) -> LabelledFeatures:
    x = _read_tensor(path, f"{name}_features", "f", 2)
    labels = _read_tensor(path, f"{name}_labels", "ui", 1)
    if len(x) != len(labels):
        raise DataError(f"{path}: {len(x)} rows of {name}_features and {len(labels)} of {name}_labels")
    if not np.isfinite(x).all():
        raise DataError(f"{path}: {name}_features has entries that are NaN or infinite")
    return x, labels.astype(np.int64)


def _read_tensor(path: str, name: str, kinds: str, dimensions: int) -> np.ndarray:
    """Read a tensor of a file; it must hold numbers of some kinds, and at least one."""
    try:
        with safe_open(path, framework="numpy") as file:
            if name not in file.keys():  # noqa: SIM118 (not a dict)
                raise DataError(f"{path}: has no {name}; a file of features is described in docs/data.md")
            found: np.ndarray = file.get_tensor(name)
    except (OSError, SafetensorError, TypeError, ValueError, AttributeError) as error:
        raise _make_unreadable_error(path, error) from error
    if found.dtype.kind not in kinds or found.ndim != dimensions or not found.size:
        kind = {"f": "floating-point", "ui": "whole"}[kinds]
        raise DataError(
            f"{path}: {name} must hold {kind} numbers in {dimensions} dimensions, found {found.dtype} {found.shape}"
        )
    return found


def _make_unreadable_error(path: str, error: Exception) -> DataError:
    if not path:
        return DataError("dataset.path: set it to a file of features, as nc-features writes it")
    if isinstance(error, FileNotFoundError):
        return DataError(f"dataset.path={path}: no such file; nc-features writes it")
    return DataError(f"dataset.path={path}: cannot be read ({str(error).splitlines()[0]})")
