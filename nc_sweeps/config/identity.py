"""The signature, which two runs share if they are the same, and the key that they share if they can train together."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from nc_sweeps.config.keys import list_values
from nc_sweeps.config.schema import RunConfig, list_all_keys


def compute_signature(config: RunConfig) -> str:
    """Return the hash of all keys that decide the numbers: the same signature, the same run."""
    before = _list_values_before()
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


@cache
def _list_values_before() -> dict[str, Any]:
    """Return the keys that came later, with the values of the runs that were made before."""
    return {key.name: key.before for key in list_all_keys() if key.before is not dataclasses.MISSING}


def _hash(keys: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()[:12]
