"""Composes the files of ``conf/``, by Hydra 1.3 and by Hydra 1.4."""

from collections.abc import Sequence
from typing import Any

import hydra
from omegaconf import DictConfig

from nc_sweeps.config.resolvers import register_resolvers

#: What to tell Hydra 1.3 whenever it starts; Hydra 1.4 warns of it.
VERSION_BASE: dict[str, Any] = {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}


def compose_config(overrides: Sequence[str] = ()) -> DictConfig:
    """Return the config that ``nc-train`` would compose of some overrides."""
    register_resolvers()
    with hydra.initialize_config_module("nc_sweeps.conf", **VERSION_BASE):
        return hydra.compose("config", overrides=list(overrides))
