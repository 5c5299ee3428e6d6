"""Train runs: those of particles and of one shape as one ensemble, deep networks one after another."""

import logging
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from nc_sweeps.activations import ACTIVATIONS
from nc_sweeps.config import RunConfig, selected_metrics
from nc_sweeps.data import Dataset
from nc_sweeps.dynamics.flow import NEVER, Flow, Hyperparameters
from nc_sweeps.dynamics.integrators import INTEGRATORS
from nc_sweeps.dynamics.schedule import Schedule
from nc_sweeps.errors import ConfigError
from nc_sweeps.interruption import InterruptedTraining, Interruption
from nc_sweeps.metrics.statistics import one_hot
from nc_sweeps.models.deep import initialised
from nc_sweeps.models.mean_field import MeanFieldEnsemble, initial_ensemble
from nc_sweeps.models.shard import Shard
from nc_sweeps.models.truncation import Truncation
from nc_sweeps.training.callbacks import Progress, Record, RunRecord, Silent
from nc_sweeps.training.cost import STOPS, Size, budget_bytes
from nc_sweeps.training.deep import DeepModule, network_of
from nc_sweeps.training.module import PARTICLES, FlowModule, RunsModule, Segments
from nc_sweeps.training.processes import count_threads, find_device
from nc_sweeps.training.references import References
from nc_sweeps.training.strategy import ParticleParallelStrategy

#: Besides ``STOPS``, a stop whenever a run has done so many multiply-adds, a fraction of a second.
_WORK_A_STOP = 10**10


@dataclass(frozen=True)
class LoadedRun:
    """A run that is ready to be trained.

    Args:
        config: what to run.
        data: its data set.
        record: where its numbers go.
        step: steps already taken.
        state: as :meth:`RunsModule.state` gave it after that step, with the particles of this process; None: the
            initial state.
        seconds: training time already spent.
    """

    config: RunConfig
    data: Dataset
    record: RunRecord
    step: int = 0
    state: dict[str, Tensor] | None = None
    seconds: float = 0.0

    @cached_property
    def schedule(self) -> Schedule:
        """The steps of the run."""
        return Schedule.of(self.config.dynamics, len(self.data.train.labels))

    @cached_property
    def size(self) -> Size:
        """What decides the cost of the run."""
        return Size.of(self.config, self.data, self.schedule, self.step)


class Ensemble(ABC):
    """Runs that train at once, from a common step to the end.

    Args:
        runs: all at the same step.
    """

    def __init__(self, runs: Sequence[LoadedRun]) -> None:
        self.runs = runs
        self.config = runs[0].config
        self.begin = runs[0].step
        self.size = runs[0].size

    @property
    def work(self) -> int:
        """Multiply-adds of the steps to take: proportional to the time that they cost."""
        return self.size.steps * len(self.runs) * self.size.step_work

    def train(
        self,
        interruption: Interruption | None = None,
        report: Callable[[int, dict[str, list[float]]], None] | None = None,
    ) -> None:
        """Train to the end, or until told to stop.

        Args:
            interruption: tells to; None: nobody does.
            report: called with the work done since the last call and the latest metrics of the live runs.

        Raises:
            InterruptedTraining: it was told to stop. All runs are saved.
        """
        interruption = interruption or Interruption()
        if self.work == 0:  # stopped after the last step and before it could say so
            for run in self.runs:
                run.record.finish("completed")
            return
        steps = self.runs[0].schedule.measurements(self.config.metrics)
        record = Record(
            [run.record for run in self.runs],
            selected_metrics(self.config),
            steps,
            [run.seconds for run in self.runs],
            self.config.compute.checkpoint_seconds,
            interruption,
        )
        callbacks: list[pl.Callback] = [record]
        if report is not None:
            a_step = len(self.runs) * self.size.step_work
            callbacks.append(Progress(lambda steps, metrics: report(steps * a_step, metrics), record))
        _trainer(self.config, callbacks).fit(self._module(), datamodule=Segments(self._stops(steps)))
        if record.interrupted and interruption.signal is not None and not isinstance(self.runs[0].record, Silent):
            raise InterruptedTraining(interruption.signal)

    def _stops(self, measurements: Sequence[int]) -> list[int]:
        """Steps between which training is left alone: the same for a run alone, packed or resumed."""
        total = measurements[-1]
        apart = min(math.ceil(total / STOPS), max(1, _WORK_A_STOP // self.size.step_work))
        return sorted({self.begin} | {step for step in {*measurements, *range(0, total, apart)} if step > self.begin})

    @abstractmethod
    def part(self, rank: int) -> "Ensemble":
        """What one of the processes of ``compute`` trains. Only the first keeps records.

        Args:
            rank: of that process.
        """

    @abstractmethod
    def _module(self) -> RunsModule:
        """What Lightning trains."""

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float64 if self.config.compute.precision == "64-true" else torch.float32


class FlowEnsemble(Ensemble):
    """Networks of particles, of one :func:`~nc_sweeps.config.ensemble_key`, that train as one program."""

    def part(self, rank: int) -> "FlowEnsemble":
        """Its particles; the runs' states are those of all of them."""
        own = Shard(self.config.width.particles, rank, self.config.compute.processes).own

        def cut(state: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: Z[own].clone() if name in PARTICLES else Z for name, Z in state.items()}

        return FlowEnsemble(
            [
                replace(run, record=Silent() if rank else run.record, state=run.state and cut(run.state))
                for run in self.runs
            ]
        )

    def _module(self) -> FlowModule:
        dtype = self._dtype
        configs = [run.config for run in self.runs]
        distances = [config.dynamics.stage_one_distance for config in configs]
        module = FlowModule(
            ensemble=self._networks(dtype),
            flow=self._flow(),
            X=self._inputs("train", dtype),
            Y=self._targets("train", dtype),
            X_test=self._inputs("test", dtype),
            Y_test=self._targets("test", dtype),
            step=self.begin,
            references=References(configs, [run.data for run in self.runs]),
            stage_one_distance=torch.tensor([math.nan if d is None else d for d in distances], dtype=torch.float64),
        )
        states = [run.state for run in self.runs if run.state is not None]
        if states:
            module.restore(states)
        return module

    def _flow(self) -> Flow:
        dynamics = self.config.dynamics
        hyperparameters = Hyperparameters(
            seeds=torch.tensor([run.config.seed for run in self.runs], dtype=torch.int64),
            beta=self._column("beta"),
            lambda_rho=self._column("lambda_rho"),
            lambda_w=self._column("lambda_w"),
            schedules=tuple(run.schedule for run in self.runs),
        )
        starts = [run.schedule.stage_one if run.config.model.train_head else NEVER for run in self.runs]
        return Flow(INTEGRATORS[dynamics.integrator], hyperparameters, dynamics.batch_size, torch.tensor(starts))

    def _networks(self, dtype: torch.dtype) -> MeanFieldEnsemble:
        models = [run.config.model for run in self.runs]
        truncation = Truncation(self.config.model.truncation, self.config.model.truncation_c0)
        return initial_ensemble(
            [run.config.seed for run in self.runs],
            particles=self.config.width.particles,
            dimension=self.runs[0].data.train.x.shape[1],
            features=self.config.model.features,
            classes=self.runs[0].data.classes,
            scale_u=[model.initial_scale_u for model in models],
            scale_a=[model.initial_scale_a for model in models],
            scale_w=[model.initial_scale_w for model in models],
            gamma=[model.gamma for model in models],
            activation=ACTIVATIONS[self.config.model.activation],
            dtype=dtype,
            truncation=None if math.isinf(truncation.radius) else truncation,
            processes=self.config.compute.processes,
        )

    def _column(self, key: str) -> Tensor:
        return torch.tensor([getattr(run.config.dynamics, key) for run in self.runs], dtype=torch.float64)

    def _inputs(self, split: str, dtype: torch.dtype) -> Tensor:
        if all(run.data is self.runs[0].data for run in self.runs):  # shared, and held once
            return torch.from_numpy(getattr(self.runs[0].data, split).x).to(dtype).expand(len(self.runs), -1, -1)
        return torch.stack([torch.from_numpy(getattr(run.data, split).x).to(dtype) for run in self.runs])

    def _targets(self, split: str, dtype: torch.dtype) -> Tensor:
        labels = torch.from_numpy(np.stack([getattr(run.data, split).labels for run in self.runs]))
        return one_hot(labels, self.runs[0].data.classes, dtype)


class DeepEnsemble(Ensemble):
    """A deep network."""

    def part(self, rank: int) -> "DeepEnsemble":
        """All of it: it trains in one process."""
        return self

    def _module(self) -> DeepModule:
        (run,) = self.runs
        network = network_of(run.config.model, run.data)
        module = DeepModule(
            initialised(network, run.config.seed, self._dtype),
            run.data,
            run.config.dynamics,
            run.schedule,
            run.config.seed,
            run.step,
        )
        if run.state is not None:
            module.restore(run.state)
        return module


def cut_into_ensembles(runs: Sequence[LoadedRun], max_runs: int | None) -> Sequence[Ensemble]:
    """Cut runs of one shape and one step into what is trained at once and fits into the memory.

    Args:
        runs: in the order in which they were asked for.
        max_runs: largest ensemble; None: no limit.

    Raises:
        ConfigError: not one run fits into ``compute.memory``, or the network is not for such samples or batches.
    """
    size, config = runs[0].size, runs[0].config
    budget, threads = budget_bytes(config), count_threads(config.compute)
    limit = (max_runs or len(runs)) if config.model.has_particles else 1
    most = next((count for count in range(limit, 0, -1) if size.peak_bytes(count, threads) <= budget), 0)
    if most == 0 and config.compute.memory is not None:
        needed = (size.peak_bytes(1, threads) - budget) / 2**30 + config.compute.memory
        network = f"of {config.width.particles} particles" if config.model.has_particles else f"of {config.model.name}"
        raise ConfigError(
            f"compute.memory={config.compute.memory:g}: a run {network} needs {needed:.2g} GiB, with what the process "
            "holds already"
        )
    if not config.model.has_particles:
        return [DeepEnsemble([run]) for run in runs]
    most = max(most, 1)  # what is free is a guess: let a run that needs more than that try
    return [FlowEnsemble(runs[start : start + most]) for start in range(0, len(runs), most)]


def _trainer(config: RunConfig, callbacks: list[pl.Callback]) -> pl.Trainer:
    torch.set_num_threads(count_threads(config.compute))
    # Lightning announces hardware and hints at data loaders and loggers that are not in use here.
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
    accelerator = config.compute.accelerator
    if accelerator == "auto" and not torch.cuda.is_available():
        accelerator = "cpu"  # the metrics need float64, which Apple's GPUs do not have
    spread: dict[str, Any] = {}
    if config.compute.processes > 1:
        strategy = ParticleParallelStrategy(find_device(config.compute), dist.get_rank())
        spread = {"strategy": strategy, "plugins": [LightningEnvironment()]}
    try:
        return pl.Trainer(
            accelerator=accelerator,
            devices=1,
            **spread,
            precision=config.compute.precision,  # type: ignore[arg-type]
            max_epochs=1,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except (ValueError, ImportError, MisconfigurationException) as error:
        raise ConfigError(f"compute.accelerator={config.compute.accelerator}: {str(error).splitlines()[0]}") from error
