"""Callbacks around training: measure, record, checkpoint, show progress."""

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
    """Where the numbers of one run go."""

    def append(self, row: dict[str, int | float]) -> None:
        """Take one row of measurements."""

    def flush(self) -> None:
        """Keep the rows so far."""

    def save(self, state: dict[str, Tensor], step: int) -> None:
        """Keep the rows so far and the state after a step, to go on from."""

    def finish(self, status: str, reason: str = "") -> None:
        """Keep the rows so far and close the run."""


class SilentRecord:
    """The record of a follower, which keeps nothing: the leader keeps the same numbers."""

    def append(self, row: dict[str, int | float]) -> None:
        """See :class:`RunRecord`."""

    def flush(self) -> None:
        """See :class:`RunRecord`."""

    def save(self, state: dict[str, Tensor], step: int) -> None:
        """See :class:`RunRecord`."""

    def finish(self, status: str, reason: str = "") -> None:
        """See :class:`RunRecord`."""


#: Share of the time that writing rows may take: small networks are measured faster than files are written.
_WRITING = 0.05


class Record(pl.Callback):
    """Measures at the given steps and hands every run its own numbers and checkpoints.

    A run whose parameters stop being finite is closed as diverged, with the steps between which it happened;
    the other runs of the ensemble never notice, because nothing mixes runs.

    Args:
        records: one a run.
        metrics: names from the catalogue.
        steps: at which to measure.
        seconds: training time already spent by each run before this process.
        checkpoint_seconds: least time between two checkpoints; the last state is always kept.
        interruption: asks to stop; the runs are then saved and left open.
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
        """Measure the initial state; a resumed run has measured it already."""
        assert isinstance(pl_module, RunsModule)
        self.interruption.own()
        self._start = self._saved = time.monotonic()
        self._next_flush = -math.inf
        self._last_measured = pl_module.step
        if pl_module.step == 0:
            self._measure(pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Measure where asked; keep the state from time to time."""
        assert isinstance(pl_module, RunsModule)
        if pl_module.step in self.steps:
            self._measure(pl_module)
        # Particles are gathered from all processes, so they look at one clock.
        if trainer.strategy.broadcast(time.monotonic() - self._saved >= self.checkpoint_seconds):
            self._save(pl_module)
        # All processes stop at the same step, which is the first one's to say.
        self.interrupted = trainer.strategy.broadcast(self.interruption.signal is not None)
        if self.interrupted or not any(self.alive):
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the last state and close the runs that came to their end."""
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
        self._next_flush = end + (end - begin) / _WRITING

    def _save(self, module: RunsModule) -> None:
        for run, record in enumerate(self.records):
            if not self.alive[run]:
                continue
            state = module.state(run)
            # A run may have diverged since it was last measured; the next measurement will say so.
            if all(Z.isfinite().all() for Z in state.values()):
                record.save(state, module.step)
        self._saved = time.monotonic()


class Progress(pl.Callback):
    """Tells a listener of steps as they are taken.

    Args:
        listener: hears of the work done and of the latest metrics of all live runs.
        record: the callback that has the latest metrics.
        work_per_step: work of one step of the ensemble.
    """

    def __init__(self, listener: Listener, record: Record, work_per_step: int) -> None:
        self.listener = listener
        self.record = record
        self.work_per_step = work_per_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Tell of the segment just taken."""
        assert isinstance(batch, tuple)
        first, last = batch
        self.listener.advance((last - first) * self.work_per_step, self.record.latest)
