"""Parses configs that differ from one another in a few values, in a fraction of the time that each takes alone."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from itertools import takewhile
from operator import attrgetter
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, ValueNode
from omegaconf.errors import OmegaConfBaseException, ValidationError

from nc_sweeps.config.explanations import explain_config_error
from nc_sweeps.config.parsing import check_run, convert, read_tree
from nc_sweeps.config.private_names import are_nodes_reliable, find_node, read_value, write_value
from nc_sweeps.config.schema import RunConfig
from nc_sweeps.errors import ConfigError


class Variations:
    """The configs that differ from a composed one in a few values.

    Args:
        cfg: as for :func:`nc_sweeps.config.parse`.

    Raises:
        ConfigError: a key is unknown or has the wrong type.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self._tree = read_tree(cfg)
        self._config = convert(self._tree)
        self._references = dict(_find_references(OmegaConf.to_container(self._tree)))
        self._find_parent = cache(self._search_parent)
        self._find_fields = cache(self._search_fields)

    def parse(self, values: dict[str, Any], overrides: Sequence[str] = ()) -> RunConfig:
        """Return the config with some values changed, as :func:`nc_sweeps.config.parse` would have made it.

        Args:
            values: new values by dotted keys. The keys are the same in every call.
            overrides: as for :func:`nc_sweeps.config.parse`.

        Raises:
            ConfigError: as for :func:`nc_sweeps.config.parse`.
        """
        try:
            config = self._change(values) if are_nodes_reliable() else self._change_by_public_names(values)
        except OmegaConfBaseException as error:
            raise ConfigError(explain_config_error(error, self._tree)) from error
        check_run(config, overrides)
        return config

    def _change_by_public_names(self, values: dict[str, Any]) -> RunConfig:
        for name, value in values.items():
            OmegaConf.update(self._tree, name, value)
        return convert(self._tree)

    def _change(self, values: dict[str, Any]) -> RunConfig:
        config: RunConfig = _copy(self._config)
        for name, value in values.items():
            self._write(name, value)
        for name, find_parent, key in self._find_fields(tuple(values)):
            setattr(find_parent(config), key, self._read(name))
        return config

    def _search_parent(self, name: str) -> tuple[Any, str | int]:
        """Return the container of a dotted key in the tree, and its key there."""
        group, _, key = name.rpartition(".")
        parent = find_node(*self._find_parent(group)) if group else self._tree
        return parent, int(key) if isinstance(parent, ListConfig) else key

    def _write(self, name: str, value: Any) -> None:
        node = find_node(*self._find_parent(name))
        if isinstance(node, ValueNode):
            # OmegaConf's own way to a key takes ten times as long; it is left to say where a value does not fit.
            with suppress(ValidationError):
                write_value(node, value)
                return
        OmegaConf.update(self._tree, name, value)

    def _read(self, name: str) -> Any:
        parent, key = self._find_parent(name)
        node = find_node(parent, key)
        if isinstance(node, DictConfig | ListConfig):
            return OmegaConf.to_object(node)
        assert isinstance(node, ValueNode)
        written = read_value(node)
        if not isinstance(written, str):
            return written
        whole = re.fullmatch(r"\$\{([a-z_]\w*(\.[a-z_]\w*)*)\}", written)
        # Most references are to one key; OmegaConf's grammar takes a third of a millisecond to find that out.
        return node.validate_and_convert(self._read(whole[1])) if whole else parent[key]

    def _search_fields(self, names: tuple[str, ...]) -> Sequence[tuple[str, Callable[[RunConfig], Any], str]]:
        """Return the fields that change with some keys: dotted name, what finds the parent in a config, name there."""
        fields = []
        for name in self._add_dependents({_find_field(name) for name in names}):
            group, _, key = name.rpartition(".")
            fields.append((name, attrgetter(group) if group else _return_itself, key))
        return fields

    def _add_dependents(self, names: set[str]) -> set[str]:
        """Return some fields with all that refer to them."""
        more = {name for name, mentioned in self._references.items() if mentioned & names} - names
        return self._add_dependents(names | more) if more else names


_PLAIN = (str, int, float, type(None))


def _copy(value: Any) -> Any:
    """Copy a config so that nothing is shared; :func:`copy.deepcopy` takes twenty times as long."""
    if isinstance(value, list):
        return [_copy(entry) for entry in value]
    if not dataclasses.is_dataclass(value):
        return value
    copied = object.__new__(type(value))
    vars(copied).update({key: own if isinstance(own, _PLAIN) else _copy(own) for key, own in vars(value).items()})
    return copied


def _return_itself(config: RunConfig) -> RunConfig:
    return config


def _find_references(tree: Any, prefix: str = "") -> Iterator[tuple[str, set[str]]]:
    """Give the fields that refer to others, with the dotted names that they mention."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        name = f"{prefix}{key}"
        if isinstance(value, dict | list):
            yield from _find_references(value, f"{name}.")
        elif isinstance(value, str) and "${" in value:
            parts = name.split(".")
            mentioned = re.findall(r"\$\{(\.*)([\w.]+)\}", value)
            yield (
                _find_field(name),
                {".".join([*parts[: len(parts) - len(dots)], key] if dots else [key]) for dots, key in mentioned},
            )


def _find_field(name: str) -> str:
    """Return the field that holds a value: the entries of a list belong to the list."""
    return ".".join(takewhile(lambda part: not part.isdigit(), name.split(".")))
