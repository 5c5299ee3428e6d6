"""Ensembles: runs that train at once. Networks of particles share one if their shapes agree; deep ones train alone."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from nc_sweeps.activations import ACTIVATIONS
from nc_sweeps.config import ConvolutionalConfig, RunConfig, select_metrics
from nc_sweeps.data import Dataset
from nc_sweeps.dynamics.flow import NEVER, Flow, Hyperparameters
from nc_sweeps.dynamics.integrators import INTEGRATORS
from nc_sweeps.dynamics.schedule import Schedule
from nc_sweeps.errors import ConfigError
from nc_sweeps.interruption import InterruptedTraining, Interruption
from nc_sweeps.metrics.statistics import one_hot
from nc_sweeps.models.deep import initialise
from nc_sweeps.models.mean_field import PARTICLES, MeanFieldNetworks, initialise_networks
from nc_sweeps.models.shard import Shard
from nc_sweeps.models.truncation import Truncation
from nc_sweeps.training.callbacks import ListenerCallback, RecordingCallback, RunRecord, SilentRecord
from nc_sweeps.training.deep import DeepModule, build_network
from nc_sweeps.training.listener import Listener
from nc_sweeps.training.memory import find_budget_bytes, predict_peak_bytes
from nc_sweeps.training.module import FlowModule, RunsModule, Segments
from nc_sweeps.training.processes import count_threads
from nc_sweeps.training.references import References
from nc_sweeps.training.seconds import PAUSES, count_work
from nc_sweeps.training.sizes import Size
from nc_sweeps.training.trainer import open_trainer

#: Most multiply-adds of a run between two pauses: a fraction of a second. There are at least ``PAUSES`` pauses.
_WORK_BETWEEN_PAUSES = 10**10


@dataclass(frozen=True)
class LoadedRun:
    """A run that is ready to be trained.

    Args:
        config: configuration of the run.
        data: its data set.
        record: the place where its numbers go.
        step: number of steps already taken.
        state: the state after that step, as :meth:`RunsModule.state` returned it, with the particles of this process;
            None: the initial state.
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
        """Schedule of the steps of the run."""
        return Schedule.of(self.config.dynamics, len(self.data.train.labels))

    @cached_property
    def size(self) -> Size:
        """Sizes that decide the cost of the run."""
        return Size.of(self.config, self.data, self.schedule, self.step)


class Ensemble(ABC):
    """Runs that train at once, from a common step to the end.

    Args:
        runs: runs that stand at the same step.
        rank: number of this process among those that share the particles of the runs.
    """

    def __init__(self, runs: Sequence[LoadedRun], rank: int = 0) -> None:
        self.runs = runs
        self.rank = rank
        self.config = runs[0].config
        self.first_step = runs[0].step
        self.size = runs[0].size

    @property
    def work(self) -> int:
        """Number of multiply-adds of the steps to take, which is proportional to the time that they cost."""
        return self.size.steps * self._work_per_step

    @property
    def _work_per_step(self) -> int:
        return len(self.runs) * count_work(self.size).step

    def train(self, interruption: Interruption | None = None, listener: Listener | None = None) -> None:
        """Train to the end, or until a signal asks to stop.

        Args:
            interruption: the signals that ask to stop; None: none does.
            listener: hears of the work done and of the latest metrics of the live runs.

        Raises:
            InterruptedTraining: a signal asked to stop. All runs are saved. A follower, whom the leader makes stop,
                returns instead.
        """
        interruption = interruption or Interruption()
        if self.work == 0:  # an earlier process ended after the last step and before it could record the end
            for run in self.runs:
                run.record.finish("completed")
            return
        steps = self.runs[0].schedule.measurements(self.config.metrics)
        recording = RecordingCallback(
            [run.record for run in self.runs],
            select_metrics(self.config),
            steps,
            [run.seconds for run in self.runs],
            self.config.compute.checkpoint_seconds,
            interruption,
        )
        callbacks: list[pl.Callback] = [recording]
        if listener is not None:
            callbacks.append(ListenerCallback(listener, recording, self._work_per_step))
        with open_trainer(self.config.compute, self.rank, callbacks) as trainer:
            trainer.fit(self._build_module(), datamodule=Segments(self._plan_pauses(steps)))
        if self.rank == 0 and recording.interrupted and interruption.signal is not None:
            raise InterruptedTraining(interruption.signal)

    def _plan_pauses(self, measurements: Sequence[int]) -> list[int]:
        """Return the steps between which nothing interrupts training: the same for a run alone, packed or resumed."""
        total = measurements[-1]
        distance = min(math.ceil(total / PAUSES), max(1, _WORK_BETWEEN_PAUSES // count_work(self.size).step))
        pauses = {*measurements, *range(0, total, distance)}
        return sorted({self.first_step} | {step for step in pauses if step > self.first_step})

    @abstractmethod
    def cut_part(self, rank: int) -> "Ensemble":
        """Return what one of several processes trains. Only process 0 keeps records.

        Args:
            rank: number of that process.
        """

    @abstractmethod
    def _build_module(self) -> RunsModule:
        """Return the module that Lightning trains."""

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float64 if self.config.compute.precision == "64-true" else torch.float32


class FlowEnsemble(Ensemble):
    """Networks of particles, with one :func:`~nc_sweeps.config.compute_ensemble_key`, that train as one program."""

    def cut_part(self, rank: int) -> "FlowEnsemble":
        """Return the same runs, with only the particles of one process in their states."""
        own = Shard(self.config.width.particles, rank, self.config.compute.processes).own

        def cut(state: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: Z[own].clone() if name in PARTICLES else Z for name, Z in state.items()}

        runs = [
            replace(run, record=SilentRecord() if rank else run.record, state=run.state and cut(run.state))
            for run in self.runs
        ]
        return FlowEnsemble(runs, rank)

    def _build_module(self) -> FlowModule:
        dtype = self._dtype
        configs = [run.config for run in self.runs]
        distances = [config.dynamics.stage_one_distance for config in configs]
        module = FlowModule(
            flow=self._build_flow(dtype),
            X=self._stack_inputs("train", dtype),
            Y=self._stack_targets("train", dtype),
            X_test=self._stack_inputs("test", dtype),
            Y_test=self._stack_targets("test", dtype),
            step=self.first_step,
            references=References(configs, [run.data for run in self.runs]),
            stage_one_distance=torch.tensor([math.nan if d is None else d for d in distances], dtype=torch.float64),
        )
        states = [run.state for run in self.runs if run.state is not None]
        if states:
            module.restore(states)
        return module

    def _build_flow(self, dtype: torch.dtype) -> Flow:
        dynamics = self.config.dynamics
        hyperparameters = Hyperparameters(
            seeds=torch.tensor([run.config.seed for run in self.runs], dtype=torch.int64),
            beta=self._stack_column("beta"),
            lambda_rho=self._stack_column("lambda_rho"),
            lambda_w=self._stack_column("lambda_w"),
            schedules=tuple(run.schedule for run in self.runs),
        )
        starts = [run.schedule.stage_one if run.config.model.train_head else NEVER for run in self.runs]
        return Flow(
            self._build_networks(dtype),
            INTEGRATORS[dynamics.integrator],
            hyperparameters,
            dynamics.batch_size,
            torch.tensor(starts),
        )

    def _build_networks(self, dtype: torch.dtype) -> MeanFieldNetworks:
        models = [run.config.model for run in self.runs]
        truncation = Truncation(self.config.model.truncation, self.config.model.truncation_c0)
        return initialise_networks(
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

    def _stack_column(self, key: str) -> Tensor:
        return torch.tensor([getattr(run.config.dynamics, key) for run in self.runs], dtype=torch.float64)

    def _stack_inputs(self, split: str, dtype: torch.dtype) -> Tensor:
        if all(run.data is self.runs[0].data for run in self.runs):  # runs that share a data set hold it once
            return torch.from_numpy(getattr(self.runs[0].data, split).x).to(dtype).expand(len(self.runs), -1, -1)
        return torch.stack([torch.from_numpy(getattr(run.data, split).x).to(dtype) for run in self.runs])

    def _stack_targets(self, split: str, dtype: torch.dtype) -> Tensor:
        labels = torch.from_numpy(np.stack([getattr(run.data, split).labels for run in self.runs]))
        return one_hot(labels, self.runs[0].data.classes, dtype)


class DeepEnsemble(Ensemble):
    """One run of a deep network."""

    def cut_part(self, rank: int) -> "DeepEnsemble":
        """Return all of it: a deep network trains in one process."""
        return self

    def _build_module(self) -> DeepModule:
        (run,) = self.runs
        network = build_network(run.config.model, run.data)
        module = DeepModule(
            initialise(network, run.config.seed, self._dtype),
            run.data,
            run.config.dynamics,
            run.schedule,
            run.config.seed,
            run.step,
            run.config.model.batch_norm if isinstance(run.config.model, ConvolutionalConfig) else "running",
        )
        if run.state is not None:
            module.restore(run.state)
        return module


def cut_into_ensembles(runs: Sequence[LoadedRun], max_runs: int | None) -> Sequence[Ensemble]:
    """Cut runs of one shape, all at the same step, into ensembles that fit into the memory.

    Args:
        runs: runs in the order in which they were asked for.
        max_runs: size of the largest ensemble; None: no limit.

    Raises:
        ConfigError: not even one run fits into ``compute.memory``, or the network does not accept such samples or
            batches.
    """
    size, config = runs[0].size, runs[0].config
    budget, threads = find_budget_bytes(config), count_threads(config.compute)
    limit = (max_runs or len(runs)) if config.model.has_particles else 1
    most = next((count for count in range(limit, 0, -1) if predict_peak_bytes(size, count, threads) <= budget), 0)
    if most == 0 and config.compute.memory is not None:
        needed = (predict_peak_bytes(size, 1, threads) - budget) / 2**30 + config.compute.memory
        network = f"of {config.width.particles} particles" if config.model.has_particles else f"of {config.model.name}"
        raise ConfigError(
            f"compute.memory={config.compute.memory:g}: a run {network} needs {needed:.2g} GiB, with what the process "
            "holds already"
        )
    if not config.model.has_particles:
        return [DeepEnsemble([run]) for run in runs]
    most = max(most, 1)  # free memory is an estimate, so a run that needs more may try
    return [FlowEnsemble(runs[start : start + most]) for start in range(0, len(runs), most)]
