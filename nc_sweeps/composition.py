"""Composes the files of ``conf/``, and what Hydra 1.3 and Hydra 1.4 want to be told for it."""

from collections.abc import Sequence
from typing import Any

import hydra
import hydra.utils
from omegaconf import DictConfig

from nc_sweeps.resolvers import register_resolvers

#: Argument of every function that starts Hydra. Without it Hydra 1.3 behaves as 1.1; Hydra 1.4 warns of it.
VERSION_BASE: dict[str, Any] = {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}

#: Argument of :func:`hydra.main`: what a config may have executed, our callback, launchers and sweepers. Hydra 1.4 asks
#: for it, so that a config that somebody else has written executes nothing new; Hydra 1.3 cannot be told.
WHITELIST: dict[str, Any] = (
    {
        "execution_whitelist": [
            "nc_sweeps.sweep_callback.SweepCallback",
            "hydra_plugins.*",
            "optuna.samplers.*",
        ]
    }
    if hasattr(hydra.utils, "execution_whitelist")
    else {}
)


def compose_config(overrides: Sequence[str] = ()) -> DictConfig:
    """Return the config that ``nc-train`` composes of some overrides."""
    register_resolvers()
    with hydra.initialize_config_module("nc_sweeps.conf", **VERSION_BASE):
        return hydra.compose("config", overrides=list(overrides))
