"""Composes the files of ``conf/`` with Hydra, and holds the arguments in which Hydra 1.3 and Hydra 1.4 differ."""

from collections.abc import Sequence
from typing import Any

import hydra
import hydra.utils
from omegaconf import DictConfig

from nc_sweeps.resolvers import register_resolvers

#: Argument of every function that starts Hydra. Without it Hydra 1.3 behaves as 1.1; Hydra 1.4 warns of it.
VERSION_BASE: dict[str, Any] = {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}

#: Argument of :func:`hydra.main`. Whoever writes our command line or a config of ours can run any code anyway, so their
#: callbacks and log handlers need no permission. Hydra 1.4 wants to be told so; Hydra 1.3 does not ask.
NO_WHITELIST: dict[str, Any] = (
    {"execution_whitelist": hydra.utils.UNSAFE_DISABLE_EXECUTION_CHECKS}
    if hasattr(hydra.utils, "UNSAFE_DISABLE_EXECUTION_CHECKS")
    else {}
)


def compose_config(overrides: Sequence[str] = ()) -> DictConfig:
    """Return the config that ``nc-train`` composes of some overrides."""
    register_resolvers()
    with hydra.initialize_config_module("nc_sweeps.conf", **VERSION_BASE):
        return hydra.compose("config", overrides=list(overrides))
