"""Data sets: from a configuration to a training and a held-out test set.

Each set is a function of its configuration alone; training samples, test samples, what imbalance removes and what noise
does to labels come from independent streams of the counter-based Philox generator, keyed by the data set's seed.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nc_sweeps.config import DatasetConfig, DigitsConfig, StoredConfig, SyntheticConfig
from nc_sweeps.data.cifar import cifar10, cifar100
from nc_sweeps.data.digits import digits
from nc_sweeps.data.features import features
from nc_sweeps.data.gaussian import gaussian
from nc_sweeps.data.hardship import noisy, unbalanced
from nc_sweeps.data.mnist import mnist
from nc_sweeps.data.separable import separable
from nc_sweeps.data.split import Dataset, Split
from nc_sweeps.data.stored import Stored

__all__ = ["LOADERS", "Dataset", "Split", "load", "load_all"]


def _generator(config: DatasetConfig, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([config.seed, stream], dtype=np.uint64)))


def _synthetic(sampler: Callable[..., Split], knob: str) -> Callable[[Any], Dataset]:
    """Loader of a law that one number, the knob, makes easy or hard."""

    def load_law(config: SyntheticConfig) -> Dataset:
        train, test = (
            sampler(
                classes=config.classes,
                dimension=config.dimension,
                per_class=per_class,
                generator=_generator(config, stream),
                **{knob: getattr(config, knob)},
            )
            for stream, per_class in enumerate((config.train_per_class, config.test_per_class))
        )
        return Dataset(train, test, config.classes, (config.dimension,))

    return load_law


def _digits(config: DigitsConfig) -> Dataset:
    return digits(
        train_per_class=config.train_per_class,
        test_per_class=config.test_per_class,
        unit_ball=config.unit_ball,
        generator=_generator(config, 0),
    )


def _stored(read: Callable[[Any], Stored]) -> Callable[[Any], Dataset]:
    """Loader of what lies in files."""

    def load_stored(config: StoredConfig) -> Dataset:
        return read(config).select(
            train_per_class=config.train_per_class,
            test_per_class=config.test_per_class,
            unit_ball=config.unit_ball,
            generator=_generator(config, 0),
        )

    return load_stored


#: Every data set by its name in the configuration.
LOADERS: dict[str, Callable[[Any], Dataset]] = {
    "separable": _synthetic(separable, "margin"),
    "gaussian": _synthetic(gaussian, "distance"),
    "digits": _digits,
    "mnist": _stored(lambda config: mnist(name="MNIST", data_dir=config.data_dir, modulus=config.modulus)),
    "fashion_mnist": _stored(lambda config: mnist(name="FashionMNIST", data_dir=config.data_dir)),
    "cifar10": _stored(lambda config: cifar10(data_dir=config.data_dir)),
    "cifar100": _stored(
        lambda config: cifar100(
            data_dir=config.data_dir,
            superclass=config.classes == "superclass",
            superclasses=config.superclasses,
        )
    ),
    "features": _stored(lambda config: features(config.path, config.digest)),
}


def load(config: DatasetConfig) -> Dataset:
    """The data set that a configuration names.

    Raises:
        DataError: it cannot be read or sampled.
    """
    data = LOADERS[config.name](config)
    train = unbalanced(data.train, data.classes, config.imbalance, _generator(config, 2))
    return replace(data, train=noisy(train, data.classes, config.label_noise, _generator(config, 3)))


def load_all(configs: Sequence[DatasetConfig]) -> list[Dataset]:
    """The data sets of several runs; what is the same is loaded once and shared.

    Raises:
        DataError: one cannot be read or sampled.
    """
    loaded: dict[str, Dataset] = {}
    names = []
    for config in configs:
        own = config if config.is_sampled else replace(config, seed=0)
        names.append(repr(own))
        if names[-1] not in loaded:
            loaded[names[-1]] = load(own)
    return [loaded[name] for name in names]
