"""Configurations as a user would compose them, and how the command refuses them."""

import pytest

from nc_sweeps.composition import compose_config
from nc_sweeps.config import RunConfig, parse
from nc_sweeps.errors import ConfigError

#: A sweep point small enough for a test.
TINY = (
    "width.particles=12",
    "model.features=4",
    "dataset.dimension=4",
    "dataset.train_per_class=8",
    "compute.threads=1",
    "dataset.test_per_class=10",
    "dynamics.horizon=30",
    "metrics.points=8",
)

#: A noisy network of two stages, so small that the Gibbs oracle is cheap.
SMALL_STAGE_ONE = (
    "dynamics=two_stage", "dynamics.beta=100", "dynamics.step_size=1", "model.activation=sigmoid",
    "dataset.classes=2", "dataset.dimension=2", "dataset.train_per_class=3", "model.features=3",
    "metrics.exclude=[]", "compute.precision=64-true",
)  # fmt: skip


def config_of(*overrides: str) -> RunConfig:
    return parse(compose_config(overrides))


def refusal(*overrides: str) -> str:
    """Return the one line with which a command with these overrides is refused."""
    composed = compose_config(overrides)
    with pytest.raises(ConfigError) as info:
        parse(composed, overrides)
    assert "\n" not in str(info.value)
    return str(info.value)


def tiny(*overrides: str) -> RunConfig:
    return config_of(*TINY, *overrides)
