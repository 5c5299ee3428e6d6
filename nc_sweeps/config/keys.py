"""Keys of a configuration: how a dataclass declares one, and how the keys of a configuration are listed.

A key has a meaning, which docs/configuration.md shows, and one of these roles:

* ``shape``: runs that differ in it cannot share an ensemble;
* ``per_run``: it may differ from run to run within one ensemble;
* ``unsigned``: it does not enter the signature, since it does not decide the numbers;
* ``group``: it holds keys of its own.

A key that came later than others says what runs did before: a configuration without it has that value, and a run with
that value has the signature that it had before.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any


def shape(text: str, before: Any = dataclasses.MISSING) -> Any:
    """Declare a key that splits ensembles.

    Args:
        text: what it means.
        before: value of the runs that were made before the key was there.
    """
    return _declare("shape", text, before)


def per_run(text: str) -> Any:
    """Declare a key that batches along the run axis."""
    return _declare("per_run", text)


def unsigned(text: str) -> Any:
    """Declare a key that does not enter the signature."""
    return _declare("unsigned", text)


def group(text: str) -> Any:
    """Declare a group of keys."""
    return _declare("group", text)


def _declare(role: str, text: str, before: Any = dataclasses.MISSING) -> Any:
    return field(default=before, metadata={"role": role, "text": text})


@dataclass(frozen=True)
class Key:
    """A key that a schema declares.

    Args:
        name: dotted.
        role: ``shape``, ``per_run`` or ``unsigned``.
        text: what it means.
        before: value of the runs that were made before the key was there; ``dataclasses.MISSING``: it always was.
    """

    name: str
    role: str
    text: str
    before: Any = dataclasses.MISSING


def list_keys(schema: Any, prefix: str = "") -> Iterator[Key]:
    """Yield the keys that a schema declares, in the order of declaration; not those of a group that has choices."""
    for item in dataclasses.fields(schema):
        role, text = item.metadata["role"], item.metadata["text"]
        if role != "group":
            yield Key(prefix + item.name, role, text, item.default)
        elif dataclasses.is_dataclass(item.type):
            yield from list_keys(item.type, f"{prefix}{item.name}.")


def list_values(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield the keys of a config as (dotted name, value, role), in the order of declaration."""
    for key, role in _list_roles(type(config)):  # type: ignore[arg-type] # a type can be hashed
        value = getattr(config, key)
        if role == "group":
            yield from list_values(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and dataclasses.is_dataclass(value[0]):
            for index, entry in enumerate(value):
                yield from list_values(entry, f"{prefix}{key}.{index}.")
        else:
            yield prefix + key, value, role


@cache  # a sweep lists the values of ten thousand runs at once
def _list_roles(schema: type) -> tuple[tuple[str, str], ...]:
    return tuple((item.name, item.metadata["role"]) for item in dataclasses.fields(schema))
