"""The checks of what was typed: numbers that no computer holds, and values that would change nothing."""

import dataclasses
import math
import re
from collections.abc import Sequence

from nc_sweeps.config.checks import suggest_choice
from nc_sweeps.config.datasets import DatasetConfig, ReadConfig, SyntheticConfig
from nc_sweeps.config.schema import RunConfig, SeparationConfig, select_metrics
from nc_sweeps.errors import ConfigError

_NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(e[-+]?\d+)?", re.IGNORECASE)


def check_numbers(overrides: Sequence[str]) -> None:
    """Refuse a number that would be read as infinity or as 0, though it is neither.

    Raises:
        ConfigError: there is one.
    """
    for override in overrides:
        for word in re.split(r"[\s,\[\](){}:='\"]+", override.partition("=")[2]):
            if found := _NUMBER.fullmatch(word):
                value = float(word)
                if math.isinf(value):
                    raise ConfigError(
                        f"{override}: {word} is beyond all numbers of a computer; infinity is written inf"
                    )
                if value == 0 and re.search("[1-9]", found[1]):
                    raise ConfigError(f"{override}: {word} is below all numbers of a computer; write 0 if it is meant")


def check_overrides(config: RunConfig, overrides: Sequence[str]) -> None:
    """Refuse an override that would change nothing, whatever its value.

    Raises:
        ConfigError: there is one.
    """

    def is_given(key: str) -> bool:
        return any(override.lstrip("+").startswith(f"{key}=") for override in overrides)

    dataset = config.dataset
    for key in dataclasses.fields(SeparationConfig):
        if not is_given(f"separation.{key.name}"):
            continue
        if not hasattr(dataset, key.name):
            raise ConfigError(f"separation.{key.name} has no effect on dataset={dataset.name}")
        if is_given(f"dataset.{key.name}"):
            raise ConfigError(f"separation.{key.name} has no effect beside dataset.{key.name}; leave out one of them")
    reads_any = any(hasattr(dataset, key.name) for key in dataclasses.fields(SeparationConfig))
    if not reads_any and is_given("separation"):
        raise ConfigError(f"separation has no effect on dataset={dataset.name}")
    for name in ("width", "width.particles"):
        if is_given(name) and not config.model.has_particles:
            raise ConfigError(f"{name} has no effect on model={config.model.name}, which has no particles")
    size, samples = config.dynamics.batch_size, _count_samples(dataset)
    if is_given("dynamics.batch_size") and size is not None and samples is not None and size > samples:
        raise ConfigError(f"dynamics.batch_size={size}: there are {samples} training samples; null takes all of them")
    measured = select_metrics(config)
    if is_given("optimized_metric") and config.optimized_metric not in measured:
        hint = suggest_choice(config.optimized_metric, measured, "metric")
        raise ConfigError(f"optimized_metric={config.optimized_metric}: is not measured; {hint}")


def _count_samples(dataset: DatasetConfig) -> int | None:
    """Return the number of training samples, if there is no imbalance; None if only the files tell."""
    if isinstance(dataset, SyntheticConfig | ReadConfig) and dataset.train_per_class is not None:
        return dataset.class_count * dataset.train_per_class
    return None
