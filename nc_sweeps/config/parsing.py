"""From a composed Hydra config to a :class:`RunConfig`, or to one line that says what is wrong."""

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from itertools import takewhile
from operator import attrgetter
from typing import Any, cast

from omegaconf import DictConfig, ListConfig, OmegaConf, ValueNode
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from nc_sweeps.config.checks import check, check_dataset, one_of
from nc_sweeps.config.schema import CHOICES, DatasetConfig, RunConfig, SeparationConfig, fields_of
from nc_sweeps.errors import ConfigError, UserError


def parse(cfg: DictConfig, overrides: Sequence[str] = ()) -> RunConfig:
    """Turn a composed config into a checked :class:`RunConfig`.

    Args:
        cfg: composed by Hydra; a ``hydra`` node in it is ignored.
        overrides: what the user typed, to name overrides that have no effect.

    Raises:
        ConfigError: a key is unknown, has the wrong type, or a value that cannot be run.
    """
    return Variations(cfg).parse({}, overrides)


def parse_dataset(cfg: DictConfig) -> DatasetConfig:
    """The checked data set of a composed config.

    Args:
        cfg: as for :func:`parse`.

    Raises:
        ConfigError: as for :func:`parse`, of the data set alone.
    """
    config = Variations(cfg).config
    check_dataset(config)
    return cast(DatasetConfig, config.dataset)


class Variations:
    """Configs that differ from a composed one in a few values, parsed in a fraction of the time.

    Args:
        cfg: as for :func:`parse`.

    Attributes:
        config: the composed one, unchecked.

    Raises:
        ConfigError: a key is unknown or has the wrong type.
    """

    def __init__(self, cfg: DictConfig) -> None:
        tree = OmegaConf.create({key: cfg._get_node(key) for key in cfg if key != "hydra"})
        schema = OmegaConf.structured(RunConfig)
        for group in CHOICES:
            schema[group] = OmegaConf.structured(_schema(group, tree))
        try:
            self._tree = cast(DictConfig, OmegaConf.merge(schema, tree))
            self.config = cast(RunConfig, OmegaConf.to_object(self._tree))
        except OmegaConfBaseException as error:
            raise ConfigError(explain(error, tree)) from error
        self._references = dict(_references(self._tree))
        self._leaf = cache(self._found)
        self._places_of = cache(self._places)

    def parse(self, values: dict[str, Any], overrides: Sequence[str] = ()) -> RunConfig:
        """The config with some values changed, as :func:`parse` would have made it.

        Args:
            values: by dotted keys. The keys are the same in every call.
            overrides: as for :func:`parse`.

        Raises:
            ConfigError: as for :func:`parse`.
        """
        config: RunConfig = _copy(self.config)
        try:
            for name, value in values.items():
                self._set(name, value)
            for name, parent, key in self._places_of(tuple(values)):
                setattr(parent(config), key, self._value(name))
        except OmegaConfBaseException as error:
            raise ConfigError(explain(error, self._tree)) from error
        check(config)
        _check_overrides_matter(config, overrides)
        return config

    def _found(self, name: str) -> tuple[Any, str | int]:
        """What holds a key, and the key in it."""
        group, _, key = name.rpartition(".")
        parent = _node(*self._found(group)) if group else self._tree
        return parent, int(key) if isinstance(parent, ListConfig) else key

    def _set(self, name: str, value: Any) -> None:
        parent, key = self._leaf(name)
        node = _node(parent, key)
        if isinstance(node, ValueNode):
            # OmegaConf's own way to a key takes ten times as long; it is left to say where a value does not fit.
            with suppress(ValidationError):
                node._set_value(value)
                return
        OmegaConf.update(self._tree, name, value)

    def _value(self, name: str) -> Any:
        parent, key = self._leaf(name)
        node = _node(parent, key)
        if isinstance(node, DictConfig | ListConfig):
            return OmegaConf.to_object(node)
        assert isinstance(node, ValueNode)
        written = node._value()
        if not isinstance(written, str):
            return written
        whole = re.fullmatch(r"\$\{([a-z_]\w*(\.[a-z_]\w*)*)\}", written)
        # Most references are to one key; OmegaConf's grammar takes a third of a millisecond to find that out.
        return node.validate_and_convert(self._value(whole[1])) if whole else parent[key]

    def _places(self, names: tuple[str, ...]) -> Sequence[tuple[str, Callable[[RunConfig], Any], str]]:
        """The fields that change with some keys: name, what holds it in a config, and its name there."""
        places = []
        for name in self._touched({_field(name) for name in names}):
            group, _, key = name.rpartition(".")
            places.append((name, attrgetter(group) if group else _itself, key))
        return places

    def _touched(self, names: set[str]) -> set[str]:
        """Fields that are given, or refer to one that is."""
        more = {name for name, mentioned in self._references.items() if mentioned & names} - names
        return self._touched(names | more) if more else names


_PLAIN = (str, int, float, type(None))


def _copy(value: Any) -> Any:
    """A config of which nothing is shared; :func:`copy.deepcopy` takes twenty times as long to find that out."""
    if isinstance(value, list):
        return [_copy(entry) for entry in value]
    if not dataclasses.is_dataclass(value):
        return value
    copied = object.__new__(type(value))
    vars(copied).update({key: own if isinstance(own, _PLAIN) else _copy(own) for key, own in vars(value).items()})
    return copied


def _itself(config: RunConfig) -> RunConfig:
    return config


def _references(tree: DictConfig | ListConfig, prefix: str = "") -> Iterator[tuple[str, set[str]]]:
    """Fields that refer to others, with the dotted names that they mention."""
    for key in tree.keys() if isinstance(tree, DictConfig) else range(len(tree)):
        name, node = f"{prefix}{key!s}", _node(tree, key)
        if isinstance(node, DictConfig | ListConfig):
            yield from _references(node, f"{name}.")
        elif isinstance(text := node._value(), str) and "${" in text:
            places = name.split(".")
            yield (
                _field(name),
                {
                    ".".join([*places[: len(places) - len(dots)], key] if dots else [key])
                    for dots, key in re.findall(r"\$\{(\.*)([\w.]+)\}", text)
                },
            )


def _node(tree: Any, key: Any) -> Any:
    """A value as it was written, before references are followed."""
    return tree._get_node(key)


def _field(name: str) -> str:
    """The field that holds a value: entries of lists belong to the list."""
    return ".".join(takewhile(lambda part: not part.isdigit(), name.split(".")))


def explain(error: BaseException, tree: DictConfig | None = None) -> str:
    """One line for an error of OmegaConf or Hydra: what is wrong, where, and the nearest key when one is unknown."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return str(cause)
        if isinstance(cause, ConfigAttributeError | ConfigKeyError):
            return _unknown_key(str(cause.full_key or cause.key), tree)
        if isinstance(cause, ValidationError):
            return f"{cause.full_key}: {str(cause.msg or cause).splitlines()[0]}"
        cause = cause.__cause__ or cause.__context__
    # Hydra's own errors end in a listing of its search path or a link that do not help here.
    text = str(error).split("Config search path")[0].split("See https://")[0]
    return " ".join(text.split())


def _schema(group: str, tree: DictConfig) -> type[Any]:
    """The keys of a group, by the name of what was chosen."""
    chosen, schemas = tree.get(group), CHOICES[group]
    name = chosen.get("name") if isinstance(chosen, DictConfig) else chosen
    if name not in schemas:
        raise ConfigError(f"{group}.name={name}: {one_of(name, tuple(schemas))}")
    return schemas[name]


def _unknown_key(name: str, tree: DictConfig | None) -> str:
    known = [key for key, _ in fields_of(RunConfig)]
    for group, schemas in CHOICES.items():
        is_chosen = tree is not None and tree.get(group) is not None
        own = [_schema(group, tree)] if is_chosen and tree is not None else schemas.values()
        known += sorted({f"{group}.{key}" for schema in own for key, _ in fields_of(schema)})
    # A key may be mistyped in full, or be missing its group, or be a group.
    forms = {key.partition(".")[0]: key.partition(".")[0] for key in known}
    forms |= {key.rpartition(".")[2]: key for key in known} | {key: key for key in known}
    forms.pop(name, None)  # a key of another choice
    near = difflib.get_close_matches(name, forms, n=1)
    hint = f"the nearest key is {forms[near[0]]!r}" if near else "nc-train --help shows all keys"
    return f"unknown key {name!r}; {hint}"


def _check_overrides_matter(config: RunConfig, overrides: Sequence[str]) -> None:
    """Refuse a knob that the chosen data set or network does not read: every value of it would be the same run."""

    def asked(knob: str) -> bool:
        return any(override.lstrip("+").startswith(f"{knob}=") for override in overrides)

    for knob in dataclasses.fields(SeparationConfig):
        if asked(f"separation.{knob.name}") and not hasattr(config.dataset, knob.name):
            raise ConfigError(f"separation.{knob.name} has no effect on dataset={config.dataset.name}")
    reads_any = any(hasattr(config.dataset, knob.name) for knob in dataclasses.fields(SeparationConfig))
    if not reads_any and asked("separation"):
        raise ConfigError(f"separation has no effect on dataset={config.dataset.name}")
    for name in ("width", "width.particles"):
        if asked(name) and not config.model.has_particles:
            raise ConfigError(f"{name} has no effect on model={config.model.name}, which has no particles")
