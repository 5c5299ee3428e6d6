"""Turns a config that Hydra composed into a :class:`RunConfig`, or into one line that says what is wrong."""

from collections.abc import Sequence
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nc_sweeps.config.checks import check, check_dataset, suggest_choice
from nc_sweeps.config.datasets import DatasetConfig
from nc_sweeps.config.explanations import explain_config_error
from nc_sweeps.config.overrides import check_numbers, check_overrides
from nc_sweeps.config.schema import CHOICES, RunConfig
from nc_sweeps.errors import ConfigError


def parse(cfg: DictConfig, overrides: Sequence[str] = ()) -> RunConfig:
    """Turn a composed config into a checked :class:`RunConfig`.

    Args:
        cfg: composed by Hydra; a ``hydra`` node in it is ignored.
        overrides: what the user typed; an override that has no effect is refused.

    Raises:
        ConfigError: a key is unknown, has the wrong type, or a value that cannot be run.
    """
    config = convert(read_tree(cfg))
    check_run(config, overrides)
    return config


def parse_dataset(cfg: DictConfig) -> DatasetConfig:
    """Return the checked data set of a composed config.

    Args:
        cfg: as for :func:`parse`.

    Raises:
        ConfigError: as for :func:`parse`; only the data set is checked.
    """
    config = convert(read_tree(cfg))
    check_dataset(config)
    return cast(DatasetConfig, config.dataset)


def read_tree(cfg: DictConfig) -> DictConfig:
    """Return a composed config with the types of the schema, without its ``hydra`` node.

    Raises:
        ConfigError: a key is unknown or has the wrong type.
    """
    tree = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    schema = OmegaConf.structured(RunConfig)
    for group in CHOICES:
        schema[group] = OmegaConf.structured(_find_schema(group, tree))
    try:
        return cast(DictConfig, OmegaConf.merge(schema, tree))
    except OmegaConfBaseException as error:
        raise ConfigError(explain_config_error(error, tree)) from error


def convert(tree: DictConfig) -> RunConfig:
    """Return the unchecked config of a typed tree.

    Raises:
        ConfigError: a reference leads nowhere, or to a value of the wrong type.
    """
    try:
        return cast(RunConfig, OmegaConf.to_object(tree))
    except OmegaConfBaseException as error:
        raise ConfigError(explain_config_error(error, tree)) from error


def check_run(config: RunConfig, overrides: Sequence[str]) -> None:
    """Check that a config can be run, and that every override matters to it.

    Raises:
        ConfigError: it cannot, or one does not.
    """
    check_numbers(overrides)
    check(config)
    check_overrides(config, overrides)


def _find_schema(group: str, tree: DictConfig) -> type[Any]:
    """Return the schema of what is chosen in a group."""
    chosen, schemas = tree.get(group), CHOICES[group]
    name = chosen.get("name") if isinstance(chosen, DictConfig) else chosen
    if name not in schemas:
        raise ConfigError(f"{group}.name={name}: {suggest_choice(name, tuple(schemas))}")
    return schemas[name]
