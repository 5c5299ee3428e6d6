"""Turns a config that Hydra composed into a :class:`RunConfig`, or into one line that says what is wrong."""

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from nc_sweeps.config.checks import check, check_dataset, suggest_choice
from nc_sweeps.config.datasets import DatasetConfig
from nc_sweeps.config.keys import list_keys
from nc_sweeps.config.schema import CHOICES, RunConfig, SeparationConfig
from nc_sweeps.errors import ConfigError, UserError


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
    check(config)
    _check_overrides_matter(config, overrides)


def explain_config_error(error: BaseException, tree: DictConfig | None = None) -> str:
    """Return one line for an error of OmegaConf or Hydra.

    It says what is wrong and where, and which key is nearest to one that is unknown.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return str(cause)
        if isinstance(cause, ConfigAttributeError | ConfigKeyError):
            return _explain_unknown_key(str(cause.full_key or cause.key), tree)
        if isinstance(cause, ValidationError):
            return f"{cause.full_key}: {str(cause.msg or cause).splitlines()[0]}"
        cause = cause.__cause__ or cause.__context__
    # Errors of Hydra end in a list of its search path or in a link, which do not help here.
    text = str(error).split("Config search path")[0].split("See https://")[0]
    return " ".join(text.split())


def _find_schema(group: str, tree: DictConfig) -> type[Any]:
    """Return the schema of what is chosen in a group."""
    chosen, schemas = tree.get(group), CHOICES[group]
    name = chosen.get("name") if isinstance(chosen, DictConfig) else chosen
    if name not in schemas:
        raise ConfigError(f"{group}.name={name}: {suggest_choice(name, tuple(schemas))}")
    return schemas[name]


def _explain_unknown_key(name: str, tree: DictConfig | None) -> str:
    """Return one line about an unknown key: the nearest key of the chosen groups, or where to find all keys."""
    known = [key.name for key in list_keys(RunConfig)]
    for group, schemas in CHOICES.items():
        is_chosen = tree is not None and tree.get(group) is not None
        possible = [_find_schema(group, cast(DictConfig, tree))] if is_chosen else schemas.values()
        known += sorted({key.name for schema in possible for key in list_keys(schema, f"{group}.")})
    # A key may be mistyped in full, or be missing its group, or be a group.
    forms = {key.partition(".")[0]: key.partition(".")[0] for key in known}
    forms |= {key.rpartition(".")[2]: key for key in known} | {key: key for key in known}
    forms.pop(name, None)  # a key of another choice
    near = difflib.get_close_matches(name, forms, n=1)
    hint = f"the nearest key is {forms[near[0]]!r}" if near else "nc-train --help shows all keys"
    return f"unknown key {name!r}; {hint}"


def _check_overrides_matter(config: RunConfig, overrides: Sequence[str]) -> None:
    """Refuse an override that the data set or network does not read: with all its values the run would be the same."""

    def is_given(key: str) -> bool:
        return any(override.lstrip("+").startswith(f"{key}=") for override in overrides)

    for key in dataclasses.fields(SeparationConfig):
        if is_given(f"separation.{key.name}") and not hasattr(config.dataset, key.name):
            raise ConfigError(f"separation.{key.name} has no effect on dataset={config.dataset.name}")
    reads_any = any(hasattr(config.dataset, key.name) for key in dataclasses.fields(SeparationConfig))
    if not reads_any and is_given("separation"):
        raise ConfigError(f"separation has no effect on dataset={config.dataset.name}")
    for name in ("width", "width.particles"):
        if is_given(name) and not config.model.has_particles:
            raise ConfigError(f"{name} has no effect on model={config.model.name}, which has no particles")
