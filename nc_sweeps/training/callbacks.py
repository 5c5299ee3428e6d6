"""Lightning callbacks that measure runs while they train, record them and tell a listener."""

import math
import time
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import pytorch_lightning as pl
from torch import Tensor

from nc_sweeps.interruption import Interruption
from nc_sweeps.training.listener import Listener
from nc_sweeps.training.module import RunsModule


@runtime_checkable
class RunRecord(Protocol):
    """The place where the numbers of one run go."""

    def append(self, row: dict[str, int | float]) -> None:
        """Take one row of measurements."""

    def flush(self) -> None:
        """Make the rows so far permanent."""

    def save(self, state: dict[str, Tensor], step: int) -> None:
        """Make the rows so far permanent, and the state after a step, from which training can go on."""

    def finish(self, status: str, reason: str = "") -> None:
        """Make the rows so far permanent and close the run."""


class SilentRecord:
    """The record of a follower, which keeps nothing: the leader keeps the same numbers."""

    def append(self, row: dict[str, int | float]) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing."""

    def save(self, state: dict[str, Tensor], step: int) -> None:
        """Do nothing."""

    def finish(self, status: str, reason: str = "") -> None:
        """Do nothing."""


#: Largest share of the time that goes into writing rows: small networks are measured faster than files are written.
_WRITING_SHARE = 0.05


class RecordingCallback(pl.Callback):
    """Measures the runs at given steps and gives the record of every run its numbers and checkpoints.

    A run whose parameters stop being finite is closed as diverged, with the steps between which it happened;
    the other runs of the ensemble are not affected, because nothing mixes runs.

    Args:
        records: one record for each run.
        metrics: names of metrics in the catalogue.
        steps: steps at which to measure.
        seconds: training time that each run spent in earlier processes.
        checkpoint_seconds: least time between two checkpoints; the last state is always saved.
        interruption: the signals that ask to stop; the runs are then saved and left open.

    Attributes:
        latest: the last measured values of the live runs, by metric.
        interrupted: whether a signal made training stop.
    """

    def __init__(
        self,
        records: Sequence[RunRecord],
        metrics: Sequence[str],
        steps: Sequence[int],
        seconds: Sequence[float],
        checkpoint_seconds: float,
        interruption: Interruption,
    ) -> None:
        self.records = records
        self.metrics = metrics
        self.steps = frozenset(steps)
        self.seconds = seconds
        self.checkpoint_seconds = checkpoint_seconds
        self.interruption = interruption
        self.alive = [True] * len(records)
        self.latest: dict[str, list[float]] = {}
        self.interrupted = False
        self._last_measured = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the initial state, unless the run is resumed and has measured it already."""
        assert isinstance(pl_module, RunsModule)
        self.interruption.catch()
        self._start = self._saved = time.monotonic()
        self._next_flush = -math.inf
        self._last_measured = pl_module.step
        if pl_module.step == 0:
            self._measure(pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Measure at the given steps, save the state from time to time, and stop if a signal asks for it."""
        assert isinstance(pl_module, RunsModule)
        if pl_module.step in self.steps:
            self._measure(pl_module)
        # Saving collects particles from all processes, so that all of them go by one clock.
        if trainer.strategy.broadcast(time.monotonic() - self._saved >= self.checkpoint_seconds):
            self._save(pl_module)
        # All processes stop at the same step, on which process 0 decides.
        self.interrupted = trainer.strategy.broadcast(self.interruption.signal is not None)
        if self.interrupted or not any(self.alive):
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the last state and close the runs that came to their end."""
        assert isinstance(pl_module, RunsModule)
        self._save(pl_module)
        if pl_module.step < max(self.steps):
            return
        for record, alive in zip(self.records, self.alive, strict=True):
            if alive:
                record.finish("completed")

    def _measure(self, module: RunsModule) -> None:
        diverged = module.extinguish_diverged()
        values = module.measure(self.metrics)
        elapsed = time.monotonic() - self._start
        for run, record in enumerate(self.records):
            if not self.alive[run]:
                continue
            if diverged[run]:
                self.alive[run] = False
                reason = f"parameters became infinite or NaN between steps {self._last_measured} and {module.step}"
                record.finish("diverged", f"{reason}; try a smaller dynamics.step_size")
                continue
            schedule = module.schedules[run]
            record.append(
                {
                    "step": module.step,
                    "time": schedule.time(module.step),
                    "epoch": schedule.epoch(module.step),
                    "seconds": self.seconds[run] + elapsed,
                    **{name: column[run] for name, column in values.items()},
                }
            )
        self._flush()
        self.latest = {name: [x for x, alive in zip(v, self.alive, strict=True) if alive] for name, v in values.items()}
        self._last_measured = module.step

    def _flush(self) -> None:
        begin = time.monotonic()
        if begin < self._next_flush:
            return
        for record, alive in zip(self.records, self.alive, strict=True):
            if alive:
                record.flush()
        end = time.monotonic()
        self._next_flush = end + (end - begin) / _WRITING_SHARE

    def _save(self, module: RunsModule) -> None:
        for run, record in enumerate(self.records):
            if not self.alive[run]:
                continue
            state = module.state(run)
            # A run may have diverged since it was last measured; the next measurement will find out.
            if all(Z.isfinite().all() for Z in state.values()):
                record.save(state, module.step)
        self._saved = time.monotonic()


class ListenerCallback(pl.Callback):
    """Tells a listener of every segment of steps.

    Args:
        listener: hears of the work done and of the latest metrics of all live runs.
        recording: the callback that has the latest metrics.
        work_per_step: work of one step of the ensemble.
    """

    def __init__(self, listener: Listener, recording: RecordingCallback, work_per_step: int) -> None:
        self.listener = listener
        self.recording = recording
        self.work_per_step = work_per_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Tell of the segment that was just trained."""
        assert isinstance(batch, tuple)
        first, last = batch
        self.listener.advance((last - first) * self.work_per_step, self.recording.latest)
