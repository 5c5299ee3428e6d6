"""``hydra/launcher=packed`` and ``hydra/launcher=slurm``: the runs of a multirun in packs, here or on a cluster."""

import logging
import os
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.nc_sweeps_launcher.composer import SweepComposer, copies
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

if TYPE_CHECKING:
    from nc_sweeps.run_spec import RunSpec

log = logging.getLogger(__name__)


@dataclass
class PackedConf:
    """Keys of ``hydra.launcher`` that both launchers have.

    Args:
        runs_per_gpu: runs of equal shape that train at once on a GPU, or on the processor; null: what memory holds.
        max_runs_per_pack: most runs in a pack; null: no limit.
        pack_minutes: predicted work, on this machine, below which no further worker is started.
        dry_run: print the plan and launch nothing.
        wait: false: launch, say how to come back, and leave.
    """

    _target_: str = "hydra_plugins.nc_sweeps_launcher.launchers.PackedLauncher"
    runs_per_gpu: int | None = 32
    max_runs_per_pack: int | None = None
    pack_minutes: float = 0.0
    dry_run: bool = False
    wait: bool = True


@dataclass
class SlurmConf(PackedConf):
    """Keys of ``hydra.launcher`` for a cluster; names as in submitit, which see.

    Args:
        array_parallelism: jobs of the array that run at once; runs are spread over that many.
        gpus_per_node: of one job, a pack each; 0: the processor.
        gpu_type: as the cluster names it.
        nodes: of one job.
        signal_delay_s: warning before the time limit, in which runs are saved.
        setup: shell commands before Python.
        python: command that starts it, as in ``apptainer exec --nv image.sif python``; null: this one.
        container_image: for clusters with pyxis.
        srun_args, additional_parameters: whatever else srun and sbatch should be told.
    """

    _target_: str = "hydra_plugins.nc_sweeps_launcher.launchers.SlurmLauncher"
    runs_per_gpu: int | None = None
    pack_minutes: float = 10.0
    job_name: str = "nc-train"
    array_parallelism: int = 64
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodes: int = 1
    gpus_per_node: int = 1
    gpu_type: str | None = None
    cpus_per_task: int = 4
    mem_gb: float | None = None
    timeout_min: int = 240
    signal_delay_s: int = 120
    setup: list[str] = field(default_factory=list)
    python: str | None = None
    container_image: str | None = None
    srun_args: list[str] = field(default_factory=list)
    additional_parameters: dict[str, Any] = field(default_factory=dict)


for _name, _conf in (("packed", PackedConf), ("slurm", SlurmConf)):
    ConfigStore.instance().store(group="hydra/launcher", name=_name, node=_conf, provider="nc_sweeps")


class _PackLauncher(Launcher):
    """Makes packs of the runs of this project; the jobs of any other Hydra app are executed one by one."""

    place: str

    def __init__(self, **settings: Any) -> None:
        self.settings: dict[str, Any] = {
            name: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for name, value in settings.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """See :class:`hydra.plugins.launcher.Launcher`."""
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config
        self.composer = None
        if getattr(task_function, "is_packable", False):
            # The sweeper's check of all jobs, which comes next, takes the loader from here.
            self.composer = SweepComposer(hydra_context.config_loader, config)  # type: ignore[arg-type]
            hydra_context.config_loader = self.composer  # type: ignore[assignment]

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Execute the jobs and return their results in the same order."""
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        if self.composer is None:
            return self.launch_others(job_overrides, initial_job_idx)
        for key in ("runs_per_gpu", "max_runs_per_pack"):
            if self.settings[key] is not None and self.settings[key] < 1:
                raise HydraException(f"hydra.launcher.{key}={self.settings[key]}: must be at least 1, or null")
        from nc_sweeps.run_spec import RunSpec

        jobs = []
        for overrides in job_overrides:
            run, directory = self.composer.run(overrides)
            jobs.append(RunSpec(run, list(overrides), directory))
        self._train(jobs)
        return [
            self._job_return(overrides, initial_job_idx + number, job)
            for number, (overrides, job) in enumerate(zip(job_overrides, jobs, strict=True))
        ]

    def _train(self, jobs: "list[RunSpec]") -> None:
        from nc_launch.launching import launch
        from nc_launch.settings import SETTINGS
        from rich.console import Console

        invocation = {
            "overrides": OmegaConf.to_container(self.config.hydra.overrides.task),
            "sweep": OmegaConf.to_container(self.config.hydra.sweeper.get("params") or OmegaConf.create({})),
            "launcher": self.settings,
        }
        settings = SETTINGS[self.place].from_dict(self.settings)
        launch(jobs, self.place, settings, invocation, Console(stderr=True))

    def _job_return(self, overrides: Sequence[str], index: int, job: "RunSpec") -> JobReturn:
        from nc_sweeps.store.runs import last_value

        assert self.composer is not None
        config = self.composer.compose(overrides)
        with read_write(config), open_dict(config):
            config.hydra.job.id = config.hydra.job.num = index
            config.hydra.runtime.output_dir = str(job.directory)
        task_config, hydra_config = copies(config, 2)
        with read_write(task_config), open_dict(task_config):
            del task_config["hydra"]
        with read_write(hydra_config), open_dict(hydra_config):
            for key in task_config:
                del hydra_config[key]
        result = JobReturn(
            overrides=list(overrides),
            cfg=task_config,
            hydra_cfg=hydra_config,
            working_dir=str(job.directory),
            task_name=config.hydra.job.name,
            status=JobStatus.COMPLETED,
        )
        result.return_value = last_value(job.directory, job.config.optimized_metric)
        callbacks = self.hydra_context.callbacks
        callbacks.on_job_start(config=config, task_function=self.task_function)
        callbacks.on_job_end(config=config, job_return=result)
        return result

    @abstractmethod
    def launch_others(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Execute the jobs of another app."""

    def _configs(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[DictConfig]:
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
    """One job of another app, in whatever process."""
    setup_globals()
    Singleton.set_state(singletons)
    return run_job(
        hydra_context=context,
        task_function=task_function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


class PackedLauncher(_PackLauncher):
    """On this machine: a worker for each GPU, or one on all cores."""

    place = "packed"

    def launch_others(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """In this process, one after another."""
        results = []
        for config in self._configs(job_overrides, initial_job_idx):
            results.append(_run(config, self.task_function, self.hydra_context, Singleton.get_state()))
            configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        return results


class SlurmLauncher(_PackLauncher):
    """On a cluster: a job array."""

    place = "slurm"

    def launch_others(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """One task of an array each."""
        from nc_launch.backends import SlurmBackend
        from nc_launch.settings import SlurmSettings

        directory = Path(str(self.config.hydra.sweep.dir)).absolute()
        directory.mkdir(parents=True, exist_ok=True)
        configs = self._configs(job_overrides, initial_job_idx)
        backend = SlurmBackend(SlurmSettings.from_dict(self.settings))
        with backend.open_array(directory / ".submitit", os.environ.get("PYTHONPATH")) as executor:
            jobs = [
                executor.submit(_run, config, self.task_function, self.hydra_context, Singleton.get_state())
                for config in configs
            ]
        return [_result(job, config) for job, config in zip(jobs, configs, strict=True)]


def _result(job: Any, config: DictConfig) -> JobReturn:
    """What a job returned; one that never did fails alone."""
    try:
        return job.results()[0]  # type: ignore[no-any-return]
    except Exception as error:
        failed = JobReturn(overrides=list(config.hydra.overrides.task), cfg=config, status=JobStatus.FAILED)
        failed.return_value = error
        return failed
