"""The resolvers of OmegaConf that the files of ``conf/`` use."""

import inspect
import shutil
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nc_sweeps.config.help import describe_keys
from nc_sweeps.config.identity import compute_signature
from nc_sweeps.config.parsing import parse


def register_resolvers() -> None:
    """Make the resolvers of ``conf/`` known to OmegaConf; a second call changes nothing."""
    # OmegaConf 2.4 renames register_new_resolver to register_resolver, which was another, deprecated function before.
    is_renamed = "replace" in inspect.signature(OmegaConf.register_resolver).parameters
    register: Any = OmegaConf.register_resolver if is_renamed else OmegaConf.register_new_resolver
    for name, resolver in _RESOLVERS.items():
        register(name, resolver, replace=True)


def find_overrides(config: DictConfig) -> list[str]:
    """Return what the user typed, of a config that Hydra composed."""
    return list(OmegaConf.select(config, "hydra.overrides.task", default=[]))


def find_config_folders(hydra: Any) -> list[str]:
    """Return the folders of configurations that the user named with ``--config-dir``, of Hydra's own config."""
    return [str(source.path) for source in hydra.runtime.config_sources if source.provider == "command-line"]


def _signature(*, _root_: DictConfig) -> str:
    """Return the signature of a run, ``${signature:}``: the name of its folder."""
    return compute_signature(parse(_root_, find_overrides(_root_)))


def _features_classes(path: str) -> int:
    """Return the number of classes in a file of features, ``${features_classes:path}``."""
    from nc_sweeps.data.features import count_classes

    return count_classes(path)


def _features_digest(path: str) -> str:
    """Return the SHA-256 of a file of features, ``${features_digest:path}``."""
    from nc_sweeps.data.features import hash_file

    return hash_file(path)


def _inverse(value: float) -> float:
    """Return 1/value, ``${inverse:value}``, or 0 for 0."""
    return 1.0 / value if value else value


def _described_keys(*, _root_: DictConfig) -> str:
    """Return the keys of a config with their meanings, ``${described_keys:}``, for Hydra's template of the help."""
    return describe_keys(_root_, shutil.get_terminal_size().columns).replace("$", "$$")


_RESOLVERS = {
    "described_keys": _described_keys,
    "features_classes": _features_classes,
    "features_digest": _features_digest,
    "inverse": _inverse,
    "signature": _signature,
}
