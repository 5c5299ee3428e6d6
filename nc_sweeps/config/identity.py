"""What makes two runs the same, and what lets them train together."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from nc_sweeps.config.schema import RunConfig, leaves


def signature(config: RunConfig) -> str:
    """Hash of all that decides the numbers: the same signature, the same run."""
    return _digest({name: value for name, value, role in _read(config) if role != "unsigned"})


def ensemble_key(config: RunConfig) -> str:
    """Hash of all that decides shapes: runs of one key train as one ensemble.

    The step sizes may differ, the steps at which they change and the run ends may not.
    """
    keys = {name: value for name, value, role in _read(config) if role == "shape"}
    if config.dynamics.horizon_unit == "time":
        keys |= {name: value for name, value, _ in _read(config) if name.endswith("step_size")}
    return _digest(keys)


def _read(config: RunConfig) -> Iterator[tuple[str, Any, str]]:
    """The keys that the chosen network reads."""
    if config.model.has_particles:
        return leaves(config)
    return (key for key in leaves(config) if not key[0].startswith("width."))


def _digest(keys: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()[:12]
