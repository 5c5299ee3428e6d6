"""A pack: the runs that one worker process executes."""

import gc
import logging
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from nc_sweeps.config import RunConfig, ensemble_key
from nc_sweeps.errors import reason
from nc_sweeps.interruption import InterruptedTraining, Interruption

if TYPE_CHECKING:
    from nc_sweeps.tracking.lease import Worker
    from nc_sweeps.tracking.store import RunStore
    from nc_sweeps.training.engine import Run

log = logging.getLogger(__name__)

#: Seconds between two looks at runs that other processes train.
_LOOK = 1.0


@dataclass(frozen=True)
class Job:
    """A run that was asked for.

    Args:
        config: what to run.
        overrides: what the user typed for it.
        directory: where its numbers go.
    """

    config: RunConfig
    overrides: list[str]
    directory: Path


@runtime_checkable
class Listener(Protocol):
    """Hears how training goes on."""

    def begin(self, runs: int, work: int) -> None:
        """Runs that now begin or go on, and the work, in any unit, that is ahead of them."""

    def advance(self, work: int, metrics: dict[str, list[float]]) -> None:
        """Work done since the last call, and the latest metrics of the live runs."""

    def finished(self, runs: int) -> None:
        """Runs that came to their end."""


@dataclass
class Pack:
    """Runs to train: those of equal shape together; what is done is left alone, what others train is waited for.

    Args:
        jobs: any mixture of runs; one asked for twice is trained once.
        max_runs_per_ensemble: largest ensemble; None: no limit.
        isolate: close a run that cannot be trained as ``failed`` and go on with the others; False: raise.
        log: file that the process writes to; None: the user's terminal.
        about: what others may want to know of this process.
    """

    jobs: Sequence[Job]
    max_runs_per_ensemble: int | None = None
    isolate: bool = False
    log: Path | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def train(self, listener: Listener) -> list[float]:
        """Train to the end.

        Returns:
            For each job the last value of its ``optimized_metric``; NaN where undefined.

        Raises:
            DataError: a data set cannot be had. Nothing was started.
            ConfigError: a run is too short for a step or too large for the memory. Nothing was started.
            StoreError: a stored file is damaged. Nothing was started.
            InterruptedTraining: the process was told to stop; the runs are saved.
        """
        from nc_sweeps.tracking.lease import Worker
        from nc_sweeps.tracking.store import FINAL, RunStore, last_value

        stores = {job.directory: RunStore(job.directory, job.config, job.overrides, self.log) for job in self.jobs}
        waiting = [store for store in stores.values() if store.status not in FINAL]
        if len(waiting) < len(stores):
            print(f"{len(stores) - len(waiting)} of {len(stores)} runs are done already", file=sys.stderr)
        with Interruption() as interruption:
            for sweep, runs in groupby(waiting, lambda store: store.directory.parent):
                with Worker(sweep, self.jobs[0].config.compute.lease_seconds, self.about) as worker:
                    self._train_all(list(runs), worker, interruption, listener)
        return [last_value(job.directory, job.config.optimized_metric) for job in self.jobs]

    def _train_all(
        self, waiting: "list[RunStore]", worker: "Worker", interruption: Interruption, listener: Listener
    ) -> None:
        from nc_sweeps.tracking.store import FINAL

        told = False
        while waiting:
            mine = [store for store in waiting if worker.claim(store.directory.name)]
            try:
                # Whoever held a run before may have finished it.
                self._isolated([store for store in mine if store.status not in FINAL], interruption, listener)
            finally:
                for store in mine:
                    worker.release(store.directory.name)
            waiting = [store for store in waiting if store not in mine and store.status not in FINAL]
            if waiting and not mine:
                if not told:
                    print(f"another process trains {len(waiting)} of the runs; waiting for it", file=sys.stderr)
                told = True
                time.sleep(_LOOK)
            if interruption.signal is not None:
                raise InterruptedTraining(interruption.signal)

    def _isolated(self, stores: "list[RunStore]", interruption: Interruption, listener: Listener) -> None:
        """Train runs; where that fails, each half, until the one that cannot be trained stands alone.

        So a bad run costs no other, and what is too much for the memory at once is tried in smaller ensembles.
        """
        try:
            self._train(stores, interruption, listener)
        except Exception as error:
            if not self.isolate:
                raise
            if len(stores) == 1:
                log.exception(f"{stores[0].directory}: {reason(error)}")
                stores[0].finish("failed", reason(error))
                listener.finished(1)
                return
            log.warning(f"{reason(error)}; trying {len(stores)} runs in halves")
        else:
            return
        _free_memory()
        middle = len(stores) // 2
        for half in (stores[:middle], stores[middle:]):
            self._isolated(half, interruption, listener)

    def _train(self, stores: "list[RunStore]", interruption: Interruption, listener: Listener) -> None:
        from nc_sweeps.tracking.store import FINAL

        stores = [store for store in stores if store.status not in FINAL]
        if not stores:
            return
        from nc_sweeps.data import load_all

        data = load_all([store.config.dataset for store in stores])

        # Here and not above: neither a pack that is done nor an error in the data need wait for Lightning.
        from nc_sweeps.training.engine import Run, ensembles_of

        runs = [Run(store.config, own, store, *store.resume()) for store, own in zip(stores, data, strict=True)]
        for run, store in zip(runs, stores, strict=True):
            store.steps = run.schedule.total
        ensembles = [part for group in _groups(runs) for part in ensembles_of(group, self.max_runs_per_ensemble)]
        listener.begin(len(runs), sum(ensemble.work for ensemble in ensembles))
        for ensemble in ensembles:
            ensemble.train(interruption, listener.advance)
            listener.finished(len(ensemble.runs))


def _groups(runs: "Sequence[Run]") -> "Iterable[list[Run]]":
    """Runs of equal shape that stand at the same step, in the order in which they were asked for."""
    groups: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        groups.setdefault((ensemble_key(run.config), run.step), []).append(run)
    return groups.values()


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
