"""``hydra/launcher=packed`` and ``hydra/launcher=slurm``: train runs in packs, here or on a cluster."""

import dataclasses
import logging
import os
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.nc_sweeps_launcher.composer import SweepComposer, copy_config
from nc_launch.settings import FROM_THE_RUNS, SETTINGS, SlurmSettings
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from nc_sweeps.config.private_names import BasicLauncher
from nc_sweeps.resolvers import find_config_folders

if TYPE_CHECKING:
    from nc_sweeps.run_spec import RunSpec

log = logging.getLogger(__name__)


def _declare_keys(class_name: str, name: str, launcher: str) -> type[Any]:
    """Make ``hydra/launcher=<name>`` known to Hydra: the settings of that launcher are the keys of its choice."""
    keys: list[tuple[str, Any, Any]] = [("_target_", str, f"{__name__}.{launcher}")]
    for own in dataclasses.fields(SETTINGS[name]):
        if own.name not in FROM_THE_RUNS:
            default = dataclasses.field(default=own.default, default_factory=own.default_factory)
            keys.append((own.name, own.type, default))
    # Configs are pickled, with the names of their classes.
    node = dataclasses.make_dataclass(class_name, keys, namespace={"__module__": __name__})
    config = OmegaConf.structured(node)
    for own in config:
        if OmegaConf.is_dict(config[own]):
            OmegaConf.set_struct(config[own], False)  # its keys are the user's
    ConfigStore.instance().store(group="hydra/launcher", name=name, node=config, provider="nc_sweeps")
    return node


PackedConf = _declare_keys("PackedConf", "packed", "PackedLauncher")
SlurmConf = _declare_keys("SlurmConf", "slurm", "SlurmLauncher")


class _PackLauncher(Launcher):
    """Makes packs of the runs of this project; the jobs of any other Hydra app are executed one by one.

    Attributes:
        backend_name: name of the backend on which the runs train, which is also the launcher's.
    """

    backend_name: str

    def __init__(self, **settings: Any) -> None:
        plain = {name: OmegaConf.to_object(value) if OmegaConf.is_config(value) else value
                 for name, value in settings.items()}  # fmt: skip
        self.settings = SETTINGS[self.backend_name].from_dict(plain)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take over what Hydra gives every launcher."""
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config
        self.composer = None
        if getattr(task_function, "is_packable", False):
            # The sweeper's check of all jobs, which comes next, takes the loader from here.
            self.composer = SweepComposer(hydra_context.config_loader, config)
            hydra_context.config_loader = self.composer  # type: ignore[assignment]

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Execute the jobs and return their results in the same order."""
        if self.composer is None:
            return self.launch_others(job_overrides, initial_job_idx)
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        self.settings.check()
        specs = [self.composer.make_spec(overrides) for overrides in job_overrides]
        self._train(specs)
        return [
            self._make_job_return(self.composer.compose(spec.overrides), index, spec)
            for index, spec in enumerate(specs, initial_job_idx)
        ]

    def _train(self, specs: Sequence["RunSpec"]) -> None:
        from nc_launch.launching import launch
        from rich.console import Console

        settings = self.settings.to_dict()
        invocation = {
            "overrides": OmegaConf.to_container(self.config.hydra.overrides.task),
            # The choice of launcher and sweeper, and their settings.
            "hydra": OmegaConf.to_container(self.config.hydra.overrides.hydra),
            "config_folders": find_config_folders(self.config.hydra),
            "sweep": OmegaConf.to_container(self.config.hydra.sweeper.get("params") or OmegaConf.create({})),
            "launcher": {name: value for name, value in settings.items() if name not in FROM_THE_RUNS},
        }
        launch(specs, self.backend_name, self.settings, invocation, Console(stderr=True))

    def _make_job_return(self, config: DictConfig, index: int, spec: "RunSpec") -> JobReturn:
        """Return what Hydra would have returned for the job of a run, and call the callbacks of that job."""
        from nc_sweeps.store.run_folder import RunFolder

        with read_write(config), open_dict(config):
            config.hydra.job.id = str(index)
            config.hydra.job.num = index
            config.hydra.runtime.output_dir = str(spec.directory)
        task_config, hydra_config = copy_config(config, 2)
        with read_write(task_config), open_dict(task_config):
            del task_config["hydra"]
        with read_write(hydra_config), open_dict(hydra_config):
            for key in task_config:
                del hydra_config[key]
        result = JobReturn(
            overrides=spec.overrides,
            cfg=task_config,
            hydra_cfg=hydra_config,
            working_dir=str(spec.directory),
            task_name=config.hydra.job.name,
            status=JobStatus.COMPLETED,
        )
        result.return_value = RunFolder(spec.directory).last_value(spec.config.optimized_metric)
        callbacks = self.hydra_context.callbacks
        callbacks.on_job_start(config=config, task_function=self.task_function)
        callbacks.on_job_end(config=config, job_return=result)
        return result

    @abstractmethod
    def launch_others(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Execute the jobs of another app and return their results in the same order."""


class PackedLauncher(_PackLauncher):
    """Trains on this machine: in a process for each GPU, or in one on all cores."""

    backend_name = "packed"

    def launch_others(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Execute the jobs of another app as Hydra's own launcher does: in this process, one after another."""
        launcher = BasicLauncher()
        launcher.setup(hydra_context=self.hydra_context, task_function=self.task_function, config=self.config)
        return launcher.launch(job_overrides, initial_job_idx)


class SlurmLauncher(_PackLauncher):
    """Trains on a cluster: in an array of jobs."""

    backend_name = "slurm"
    settings: SlurmSettings

    def launch_others(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Execute each job of another app as a job of one array."""
        from nc_launch.backends import SlurmBackend

        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        directory = Path(str(self.config.hydra.sweep.dir)).absolute()
        directory.mkdir(parents=True, exist_ok=True)
        configs = self._compose_jobs(job_overrides, initial_job_idx)
        with SlurmBackend(self.settings).open_array(directory / ".submitit", os.environ.get("PYTHONPATH")) as executor:
            jobs = [
                executor.submit(_run, config, self.task_function, self.hydra_context, Singleton.get_state())
                for config in configs
            ]
        return [_wait_for(job, config) for job, config in zip(jobs, configs, strict=True)]

    def _compose_jobs(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[DictConfig]:
        configs = []
        for index, overrides in enumerate(job_overrides, initial_job_idx):
            config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(config):
                config.hydra.job.id = str(index)
                config.hydra.job.num = index
            log.info(f"\t#{index} : {' '.join(filter_overrides(overrides))}")
            configs.append(config)
        return configs


def _run(
    config: DictConfig, task_function: TaskFunction, context: HydraContext, singletons: dict[Any, Any]
) -> JobReturn:
    """Execute a job of another app, in a process of the cluster."""
    setup_globals()
    Singleton.set_state(singletons)
    return run_job(
        hydra_context=context,
        task_function=task_function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def _wait_for(job: Any, config: DictConfig) -> JobReturn:
    """Return the result of a job; one that ended without any fails alone."""
    try:
        return job.results()[0]  # type: ignore[no-any-return]
    except Exception as error:
        failed = JobReturn(overrides=list(config.hydra.overrides.task), cfg=config, status=JobStatus.FAILED)
        failed.return_value = error
        return failed
