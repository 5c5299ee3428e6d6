"""``hydra/launcher=packed``: the runs of a multirun in this process, those of equal shape as one ensemble."""

import logging
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.nc_sweeps_launcher.composer import SweepComposer
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

log = logging.getLogger(__name__)


@dataclass
class PackedLauncherConf:
    """Keys of ``hydra.launcher``.

    Args:
        max_runs_per_ensemble: runs of equal shape that train at once.
    """

    _target_: str = "hydra_plugins.nc_sweeps_launcher.packed.PackedLauncher"
    max_runs_per_ensemble: int = 32


ConfigStore.instance().store(group="hydra/launcher", name="packed", node=PackedLauncherConf, provider="nc_sweeps")


class PackedLauncher(Launcher):
    """Composes all jobs and gives them to the task's ``many`` attribute, which executes them together.

    A task without that attribute (any other Hydra app) has its jobs executed one by one.
    """

    def __init__(self, max_runs_per_ensemble: int) -> None:
        self.max_runs_per_ensemble = max_runs_per_ensemble

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """See :class:`hydra.plugins.launcher.Launcher`."""
        # The sweeper's check of all jobs, which comes next, takes the loader from here too.
        hydra_context.config_loader = SweepComposer(hydra_context.config_loader)  # type: ignore[assignment, arg-type]
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Execute the jobs and return their results in the same order."""
        if self.max_runs_per_ensemble < 1:
            raise HydraException(
                f"hydra.launcher.max_runs_per_ensemble={self.max_runs_per_ensemble}: must be at least 1"
            )
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        configs = [self._compose(overrides, initial_job_idx + offset) for offset, overrides in enumerate(job_overrides)]
        many = getattr(self.task_function, "many", None)
        if many is None:
            return [self._run_one(config) for config in configs]

        for config in configs:
            _set_output_dir(config)
        log.info(f"{len(configs)} runs")
        for config in configs:
            self.hydra_context.callbacks.on_job_start(config=config, task_function=self.task_function)
        values = many(configs, self.max_runs_per_ensemble)
        results = [_job_return(config, value) for config, value in zip(configs, values, strict=True)]
        for config, result in zip(configs, results, strict=True):
            self.hydra_context.callbacks.on_job_end(config=config, job_return=result)
        return results

    def _compose(self, overrides: Sequence[str], index: int) -> DictConfig:
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = str(index)
            config.hydra.job.num = index
        return config

    def _run_one(self, config: DictConfig) -> JobReturn:
        log.info(f"\t#{config.hydra.job.num} : {' '.join(filter_overrides(config.hydra.overrides.task))}")
        result = run_job(
            hydra_context=self.hydra_context,
            task_function=self.task_function,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        return result


def _set_output_dir(config: DictConfig) -> None:
    """What :func:`hydra.core.utils.run_job` would have set; the folder itself is made with the first result."""
    previous = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    try:
        directory = Path(str(config.hydra.sweep.dir), str(config.hydra.sweep.subdir)).absolute()
    finally:
        HydraConfig.instance().cfg = previous
    with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
        config.hydra.runtime.output_dir = str(directory)


def _job_return(config: DictConfig, value: object) -> JobReturn:
    task_config = deepcopy(config)
    with read_write(task_config), open_dict(task_config):
        del task_config["hydra"]
    result = JobReturn(
        overrides=OmegaConf.to_container(config.hydra.overrides.task),  # type: ignore[arg-type]
        cfg=task_config,
        hydra_cfg=OmegaConf.masked_copy(config, ["hydra"]),
        working_dir=config.hydra.runtime.output_dir,
        task_name=config.hydra.job.name,
        status=JobStatus.COMPLETED,
    )
    result.return_value = value
    return result
