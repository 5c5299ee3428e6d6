"""Data sets: from a configuration to a training and a held-out test set.

A data set is a function of its configuration alone. The counter-based Philox generator has an independent stream, keyed
by the seed of the data set, for each of four things: training samples, test samples, imbalance and label noise.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nc_sweeps.config import DatasetConfig, DigitsConfig, DownloadedConfig, StoredConfig, SyntheticConfig
from nc_sweeps.data.cifar import read_cifar10, read_cifar100
from nc_sweeps.data.corruption import add_label_noise, keep_imbalanced_share
from nc_sweeps.data.digits import split_digits
from nc_sweeps.data.features import read_features
from nc_sweeps.data.gaussian import sample_gaussian
from nc_sweeps.data.mnist import read_mnist
from nc_sweeps.data.separable import sample_separable
from nc_sweeps.data.split import Dataset, Split
from nc_sweeps.data.stored import Stored, make_missing_error

__all__ = ["LOADERS", "Dataset", "Split", "check_presence", "load", "load_all"]


def _make_generator(config: DatasetConfig, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([config.seed, stream], dtype=np.uint64)))


def _make_sampling_loader(sample: Callable[..., Split], knob: str) -> Callable[[Any], Dataset]:
    """Return the loader of a data set that is drawn from a law with one parameter, the knob."""

    def load_samples(config: SyntheticConfig) -> Dataset:
        train, test = (
            sample(
                classes=config.classes,
                dimension=config.dimension,
                per_class=per_class,
                generator=_make_generator(config, stream),
                **{knob: getattr(config, knob)},
            )
            for stream, per_class in enumerate((config.train_per_class, config.test_per_class))
        )
        return Dataset(train, test, config.classes, (config.dimension,))

    return load_samples


def _load_digits(config: DigitsConfig) -> Dataset:
    return split_digits(
        train_per_class=config.train_per_class,
        test_per_class=config.test_per_class,
        unit_ball=config.unit_ball,
        generator=_make_generator(config, 0),
    )


def _make_file_loader(read: Callable[[Any], Stored]) -> Callable[[Any], Dataset]:
    """Return the loader of a data set that is read from files."""

    def load_stored(config: StoredConfig) -> Dataset:
        return read(config).select(
            train_per_class=config.train_per_class,
            test_per_class=config.test_per_class,
            unit_ball=config.unit_ball,
            generator=_make_generator(config, 0),
        )

    return load_stored


#: The loader of every data set, by its name in the configuration.
LOADERS: dict[str, Callable[[Any], Dataset]] = {
    "separable": _make_sampling_loader(sample_separable, "margin"),
    "gaussian": _make_sampling_loader(sample_gaussian, "distance"),
    "digits": _load_digits,
    "mnist": _make_file_loader(
        lambda config: read_mnist(name="MNIST", data_dir=config.data_dir, modulus=config.modulus)
    ),
    "fashion_mnist": _make_file_loader(lambda config: read_mnist(name="FashionMNIST", data_dir=config.data_dir)),
    "cifar10": _make_file_loader(lambda config: read_cifar10(data_dir=config.data_dir)),
    "cifar100": _make_file_loader(
        lambda config: read_cifar100(
            data_dir=config.data_dir,
            superclass=config.classes == "superclass",
            superclasses=config.superclasses,
        )
    ),
    "features": _make_file_loader(lambda config: read_features(config.path, config.digest)),
}

#: Folder of each downloaded data set, in the folder of all of them, and name of its class in torchvision.
_DOWNLOADED = {
    "mnist": ("MNIST/raw", "MNIST"),
    "fashion_mnist": ("FashionMNIST/raw", "FashionMNIST"),
    "cifar10": ("cifar-10-batches-py", "CIFAR10"),
    "cifar100": ("cifar-100-python", "CIFAR100"),
}


def check_presence(config: DatasetConfig) -> None:
    """Refuse a data set whose folder is missing, without reading any file.

    Raises:
        DataError: it is; the message says how to get it.
    """
    if isinstance(config, DownloadedConfig):
        folder, name = _DOWNLOADED[config.name]
        if not Path(config.data_dir, folder).is_dir():
            raise make_missing_error(config.data_dir, folder, name)


def load(config: DatasetConfig) -> Dataset:
    """Return the data set that a configuration names.

    Raises:
        DataError: the data set cannot be read or sampled.
    """
    check_presence(config)
    data = LOADERS[config.name](config)
    train = keep_imbalanced_share(data.train, data.classes, config.imbalance, _make_generator(config, 2))
    return replace(data, train=add_label_noise(train, data.classes, config.label_noise, _make_generator(config, 3)))


def load_all(configs: Sequence[DatasetConfig]) -> list[Dataset]:
    """Return the data sets of several runs; runs with equal data share one copy.

    Raises:
        DataError: a data set cannot be read or sampled.
    """
    loaded: dict[str, Dataset] = {}
    names = []
    for config in configs:
        own = config if config.is_sampled else replace(config, seed=0)
        names.append(repr(own))
        if names[-1] not in loaded:
            loaded[names[-1]] = load(own)
    return [loaded[name] for name in names]
