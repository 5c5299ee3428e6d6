"""Composes the jobs of a sweep in a fraction of the time that Hydra takes.

Hydra reads and merges every file of the configuration for every job, and does so twice: once to see that all jobs can
be composed, once to launch them. The jobs of a sweep differ in a few values.
"""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf

from nc_sweeps.config import Variations, compute_signature
from nc_sweeps.config.private_names import write_override_dirname
from nc_sweeps.resolvers import find_overrides
from nc_sweeps.run_spec import RunSpec

#: Keys that may move the folder of a sweep.
_MOVES_FOLDER = {"hydra", "output_dir", "name"}


@dataclass
class _Base:
    """A job, composed by Hydra, of which others are made that choose the same files and give the same keys.

    Args:
        overrides: overrides of the job.
        config: config of the job.
        variations: makes runs of the config with other values.
        sweep: folder in which the runs are named by their signatures; None: Hydra has to say where each one lies.
        is_trusted: whether jobs made of this one are what Hydra composes; None: not compared yet.
    """

    overrides: list[str]
    config: DictConfig
    variations: Variations
    sweep: Path | None
    is_trusted: bool | None

    def __post_init__(self) -> None:
        self._pickled = pickle.dumps(self.config)

    def copy_config(self) -> DictConfig:
        """Return a deep copy of the config, in a fraction of the time that ``deepcopy`` takes."""
        return cast(DictConfig, pickle.loads(self._pickled))


class SweepComposer:
    """Stands in for Hydra's config loader while a sweeper checks jobs and a launcher makes runs of them.

    Hydra composes the first of the jobs that choose the same files and give the same keys; in what it returned, the
    values of the others are set. Hydra composes the second one too, and if it returns anything else than what was made
    of the first, it composes them all. So no version of Hydra or OmegaConf is taken on trust, and a sweep pays for it
    with one job.

    Args:
        loader: Hydra's own config loader.
        master: configuration of the sweep.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self._loader = loader
        self._master = master
        parser = OverridesParser.create(config_loader=loader)
        # The jobs of a sweep are made of a few words, combined in many ways.
        self._parse_override = cache(parser.parse_override)
        self._list_groups = cache(loader.list_groups)
        self._bases: dict[tuple[str, ...], _Base] = {}
        self._specs: dict[tuple[str, ...], RunSpec] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:  # noqa: ARG002
        """Check that a job can be composed and run, for a sweeper.

        Returns:
            A config that chooses the same files; sweepers look no closer.
        """
        self.make_spec(sweep_overrides)
        return self._bases[self._find_kind(sweep_overrides)].config

    def make_spec(self, overrides: Sequence[str]) -> RunSpec:
        """Return the specification of the run that a job asks for.

        Raises:
            ConfigError: the job cannot be run.
            HydraException: the job cannot be composed.
        """
        key = tuple(overrides)
        if key not in self._specs:
            self._specs[key] = self._make_spec(list(overrides))
        return self._specs[key]

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Return the config of a job, as Hydra's loader would."""
        base = self._bases.get(self._find_kind(overrides))
        if base is not None and base.overrides == list(overrides):
            return base.copy_config()
        if base is None or not base.is_trusted:
            return self._compose_by_hydra(overrides)
        return self._vary_config(base, overrides)

    def _make_spec(self, overrides: list[str]) -> RunSpec:
        kind = self._find_kind(overrides)
        base = self._bases.get(kind)
        if base is not None and base.is_trusted and base.sweep is not None:
            return self._vary_spec(base, base.sweep, overrides)
        config = self._compose_by_hydra(overrides)
        variations = Variations(config)
        run = variations.parse({}, find_overrides(config))
        spec = RunSpec(run, overrides, find_output_directory(*copy_config(config, 1)))
        if base is None:
            sweep = spec.directory.parent if spec.directory.name == compute_signature(run) else None
            is_trusted = False if _has_doubles(self._parse(overrides)) else None
            self._bases[kind] = _Base(overrides, config, variations, sweep, is_trusted)
        elif base.is_trusted is None:
            base.is_trusted = self._agrees(base, spec, config)
        return spec

    def _agrees(self, base: _Base, spec: RunSpec, config: DictConfig) -> bool:
        """Return whether what is made of a base is what Hydra made of the same job."""
        try:
            if base.sweep is not None and self._vary_spec(base, base.sweep, spec.overrides) != spec:
                return False
            found = self._vary_config(base, spec.overrides)
            return bool(OmegaConf.to_container(found) == OmegaConf.to_container(config))
        except Exception:  # a private name may fail in any way
            return False

    def _compose_by_hydra(self, overrides: Sequence[str]) -> DictConfig:
        return self._loader.load_sweep_config(self._master, list(overrides))

    def _vary_spec(self, base: _Base, sweep: Path, overrides: list[str]) -> RunSpec:
        parsed = self._parse(overrides)
        values = {o.key_or_group: o.value() for o in parsed if self._is_value(o)}
        given = [str(o.input_line) for o in parsed if not o.is_hydra_override()]
        run = base.variations.parse(values, [*self._master.hydra.overrides.task, *given])
        return RunSpec(run, overrides, sweep / compute_signature(run))

    def _vary_config(self, base: _Base, overrides: Sequence[str]) -> DictConfig:
        parsed = self._parse(overrides)
        config = base.copy_config()
        for override in parsed:
            if self._is_value(override):
                OmegaConf.update(config, override.key_or_group, override.value())
        given = [o for o in parsed if not o.is_hydra_override()]
        config.hydra.overrides.task = [o.input_line for o in given]
        config.hydra.overrides.hydra = [
            *self._master.hydra.overrides.hydra,
            *(o.input_line for o in parsed if o.is_hydra_override()),
        ]
        write_override_dirname(config, given)
        OmegaConf.copy_cache(from_config=self._master, to_config=config)
        return config

    def _parse(self, overrides: Sequence[str]) -> list[Override]:
        return [self._parse_override(text) for text in overrides]

    def _find_kind(self, overrides: Sequence[str]) -> tuple[str, ...]:
        """Return what a job has in common with all that choose the same files and give the same keys."""
        return tuple(o.key_or_group if self._is_value(o) else str(o.input_line) for o in self._parse(overrides))

    def _is_value(self, override: Override) -> bool:
        """Return whether an override sets a number or a word, and chooses neither a file nor where a sweep lies."""
        is_plain = override.type is OverrideType.CHANGE and override.package is None
        is_scalar = not isinstance(override.value(), dict | list)
        key = override.key_or_group
        group, _, name = key.rpartition("/")
        moves_folder = key.split(".")[0] in _MOVES_FOLDER
        return is_plain and is_scalar and not moves_folder and name not in self._list_groups(group)


def _has_doubles(overrides: Sequence[Override]) -> bool:
    """Return whether a key is set twice, so that the order matters."""
    return len({override.key_or_group for override in overrides}) < len(overrides)


def copy_config(config: DictConfig, number: int) -> list[DictConfig]:
    """Return deep copies, each in a fraction of the time that ``deepcopy`` takes."""
    pickled = pickle.dumps(config)
    return [cast(DictConfig, pickle.loads(pickled)) for _ in range(number)]


def find_output_directory(config: DictConfig) -> Path:
    """Return where :func:`hydra.core.utils.run_job` would have a job of a sweep work. Hydra seals the config."""
    previous = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    try:
        return Path(str(config.hydra.sweep.dir), str(config.hydra.sweep.subdir)).absolute()
    finally:
        HydraConfig.instance().cfg = previous
