"""The signature, which two runs share if they are the same, and the key that they share if they can train together."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from nc_sweeps.config.keys import list_keys, list_values
from nc_sweeps.config.schema import CHOICES, RunConfig


def compute_signature(config: RunConfig) -> str:
    """Return the hash of all keys that decide the numbers: the same signature, the same run."""
    before: dict[str, Any] = {}
    for group in CHOICES:
        before |= _list_values_before(group, getattr(config, group).name)
    return _hash(
        {
            name: value
            for name, value, role in _read_values(config)
            if role != "unsigned" and not (name in before and value == before[name])
        }
    )


def compute_ensemble_key(config: RunConfig) -> str:
    """Return the hash of all keys that decide shapes: runs with the same one train as one ensemble.

    Their step sizes may differ, but not the steps at which those change or the run ends.
    """
    keys = {name: value for name, value, role in _read_values(config) if role == "shape"}
    if config.dynamics.horizon_unit == "time":
        keys |= {name: value for name, value, _ in _read_values(config) if name.endswith("step_size")}
    return _hash(keys)


def _read_values(config: RunConfig) -> Iterator[tuple[str, Any, str]]:
    """Return the keys that the chosen network reads, with values and roles."""
    if config.model.has_particles:
        return list_values(config)
    return (key for key in list_values(config) if not key[0].startswith("width."))


def add_later_keys(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a stored configuration by dotted name, with those of the keys that came after it."""
    later: dict[str, Any] = {}
    for group, schemas in CHOICES.items():
        name = values.get(f"{group}.name")
        later |= _list_values_before(group, name) if name in schemas else {}
    return later | values if later.keys() - values.keys() else values


@cache
def _list_values_before(group: str, name: str) -> dict[str, Any]:
    """Return the keys of a choice that came later, with the values of the runs that were made before."""
    keys = list_keys(CHOICES[group][name], f"{group}.")
    return {key.name: key.before for key in keys if key.before is not dataclasses.MISSING}


def _hash(keys: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()[:12]
