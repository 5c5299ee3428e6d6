"""Checks what a command asks for as a whole, which the config of a single run does not show."""

from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig

from nc_sweeps.config import check_numbers, parse, select_metrics
from nc_sweeps.errors import ConfigError

#: Keys that only a sweep reads.
_OF_SWEEPS = ("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper", "hydra.sweep")

#: Sweepers that take all points, whatever comes out of them.
_BLIND_SWEEPERS = {"BasicSweeper", "PairedSweeper"}


def check_request(config: DictConfig) -> None:
    """Refuse a command of which a part would have no effect, or that asks for nothing.

    Args:
        config: what Hydra composed before it begins with the first run, its ``hydra`` node included.

    Raises:
        ConfigError: there is something to refuse.
    """
    for key in ("launcher", "sweeper"):
        if not isinstance(config.hydra[key], DictConfig):
            raise ConfigError(f"hydra.{key}={config.hydra[key]}: is a group of keys; choose it with hydra/{key}=…")
    size = config.hydra.sweeper.get("max_batch_size")
    if size is not None and size < 1:
        raise ConfigError(f"hydra.sweeper.max_batch_size={size}: must be at least 1, or null")
    typed = list(config.hydra.overrides.task)
    swept = [*typed, *(f"{key}={values}" for key, values in _read_own_sweep(config).items())]
    check_numbers(swept)
    is_sweep = config.hydra.mode == RunMode.MULTIRUN
    for text in config.hydra.overrides.hydra:
        key = _find_key(text)
        if not is_sweep and any(key == name or key.startswith(f"{name}.") for name in _OF_SWEEPS):
            raise ConfigError(f"{text}: has no effect on a single run; sweep with -m, or leave it out")
        if key == "hydra.sweep.subdir" or (is_sweep and key.startswith("hydra.run")):
            raise ConfigError(f"{text}: a run lies in the folder of its signature; choose output_dir and name instead")
    if is_sweep:
        loader = GlobalHydra.instance().config_loader()
        for override in OverridesParser.create(config_loader=loader).parse_overrides(swept):
            _check_values(override)
            _check_own_sweeps(override, config, loader)
        _check_optimized_metric(config)


def _check_values(override: Override) -> None:
    """Refuse a key that is swept over no values."""
    if override.is_discrete_sweep() and not any(True for _ in override.sweep_iterator()):
        raise ConfigError(f"{override.input_line}: there is no value to take")


def _check_own_sweeps(override: Override, config: DictConfig, loader: ConfigLoader) -> None:
    """Refuse a sweep over experiments that have sweeps of their own, which Hydra would leave out."""
    group = override.key_or_group
    if not override.is_add() or not override.is_discrete_sweep() or not loader.get_group_options(group):
        return
    typed = {_find_key(text) for text in config.hydra.overrides.task}
    for name in override.sweep_string_iterator():
        chosen = loader.load_sweep_config(config, [f"{override.get_key_element()}={name}"])
        lost = [key for key in map(_find_key, _read_own_sweep(chosen)) if key not in typed]
        if lost:
            raise ConfigError(
                f"{override.input_line}: {name} has a sweep of its own, over {', '.join(lost)}, which would be left "
                f"out; run them one after another: nc-train +{group}={name}"
            )


def _read_own_sweep(config: DictConfig) -> dict[str, str]:
    """Return the sweep that stands in a config, values by keys."""
    return {str(key): str(values) for key, values in (config.hydra.sweeper.get("params") or {}).items()}


def _find_key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def _check_optimized_metric(config: DictConfig) -> None:
    """Refuse a sweeper that goes by a metric that the runs do not measure."""
    if str(config.hydra.sweeper.get("_target_")).rpartition(".")[2] in _BLIND_SWEEPERS:
        return
    try:
        run = parse(config)
    except ConfigError:  # said with the first run, which may have other values
        return
    if run.optimized_metric not in select_metrics(run):
        metric = f"optimized_metric={run.optimized_metric}"
        raise ConfigError(f"{metric}: the sweeper goes by it, but it is not measured; choose one that is")
