"""What makes two runs the same, and what lets them train together."""

import hashlib
import json
from typing import Any

from nc_sweeps.config.schema import RunConfig, leaves


def signature(config: RunConfig) -> str:
    """Hash of all that decides the numbers: the same signature, the same run."""
    return _digest({name: value for name, value, role in leaves(config) if role != "place"})


def ensemble_key(config: RunConfig) -> str:
    """Hash of all that decides shapes: runs of one key train as one ensemble.

    The step sizes may differ, the steps at which they change and the run ends may not.
    """
    keys = {name: value for name, value, role in leaves(config) if role == "shape"}
    if config.dynamics.horizon_unit == "time":
        keys |= {name: value for name, value, _ in leaves(config) if name.endswith("step_size")}
    return _digest(keys)


def _digest(keys: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()[:12]
