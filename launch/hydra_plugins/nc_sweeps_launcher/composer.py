"""Composes the configs of a sweep in a fraction of the time that Hydra takes.

Hydra reads and merges every file of the configuration for every job, and does so twice: once to see that all jobs can
be composed, once to launch them. The jobs of a sweep differ in a few values.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf


class SweepComposer:
    """Stands in for Hydra's config loader. Jobs that choose the same files are composed once; what is left, plain
    ``key=value`` overrides, is set on copies. The result is what Hydra's loader would have returned.

    Args:
        loader: Hydra's own.
    """

    def __init__(self, loader: ConfigLoaderImpl) -> None:
        self._loader = loader
        self._parser = OverridesParser.create(config_loader=loader)
        self._bases: dict[tuple[str, ...], DictConfig] = {}
        self._composed: dict[tuple[str, ...], DictConfig] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
        """See :meth:`hydra.core.config_loader.ConfigLoader.load_sweep_config`."""
        key = tuple(sweep_overrides)
        if key in self._composed:  # the sweeper has checked it, now the launcher wants it
            return self._composed.pop(key)
        self._composed[key] = self._compose(master_config, list(sweep_overrides))
        return deepcopy(self._composed[key])

    def _compose(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        overrides = self._parser.parse_overrides(sweep_overrides)
        files = tuple(o.key_or_group if self._is_value(o) else str(o.input_line) for o in overrides)
        if len({o.key_or_group for o in overrides}) < len(overrides):  # a key set twice: the order matters
            return self._loader.load_sweep_config(master_config, sweep_overrides)
        if files not in self._bases:
            self._bases[files] = self._loader.load_sweep_config(master_config, sweep_overrides)
            return deepcopy(self._bases[files])
        config = deepcopy(self._bases[files])
        self._loader._apply_overrides_to_config([o for o in overrides if self._is_value(o)], config)
        given = [o for o in overrides if not o.is_hydra_override()]
        config.hydra.overrides.task = [o.input_line for o in given]
        config.hydra.overrides.hydra = [
            *master_config.hydra.overrides.hydra,
            *(o.input_line for o in overrides if o.is_hydra_override()),
        ]
        dirname = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(
            overrides=given, kv_sep=dirname.kv_sep, item_sep=dirname.item_sep, exclude_keys=dirname.exclude_keys
        )
        OmegaConf.copy_cache(from_config=master_config, to_config=config)
        return config

    def _is_value(self, override: Override) -> bool:
        """Whether an override sets a number or a word and chooses no file."""
        plain = override.type is OverrideType.CHANGE and override.package is None
        scalar = not isinstance(override.value(), dict | list)
        return plain and scalar and not self._loader.repository.group_exists(override.key_or_group)
