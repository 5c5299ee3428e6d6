"""A pack: the runs that one worker process executes."""

import atexit
import gc
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from nc_sweeps.config import ensemble_key
from nc_sweeps.errors import ConfigError, reason
from nc_sweeps.interruption import InterruptedTraining, Interruption
from nc_sweeps.run_spec import RunSpec
from nc_sweeps.training.crew import Train, in_crew
from nc_sweeps.wording import format_count

if TYPE_CHECKING:
    from nc_sweeps.store.leases import Worker
    from nc_sweeps.store.runs import RunStore
    from nc_sweeps.training.ensembles import LoadedRun

log = logging.getLogger(__name__)

# On its way out the interpreter would look for garbage in all that was loaded, for a second, before it throws all away.
atexit.register(gc.freeze)

#: Seconds between two looks at runs that other processes train.
_LOOK = 1.0


@runtime_checkable
class Listener(Protocol):
    """Hears how training goes on."""

    def begin(self, runs: int, work: int) -> None:
        """Runs that now begin or go on, and the work, in any unit, that is ahead of them."""

    def advance(self, work: int, metrics: dict[str, list[float]]) -> None:
        """Work done since the last call, and the latest metrics of the live runs."""

    def finished(self, runs: int) -> None:
        """Runs that came to their end."""


@dataclass(frozen=True)
class _Training:
    """How runs are trained, who may stop it, and who hears of it."""

    train: "Train"
    interruption: Interruption
    listener: Listener


@dataclass
class Pack:
    """Runs to train: those of equal shape together; what is done is left alone, what others train is waited for.

    Every process over which ``compute`` spreads the particles has the same pack; only the first reads and writes the
    store. Where no launcher has started the others, they are started here.

    Args:
        jobs: any mixture of runs; one asked for twice is trained once.
        max_runs_per_ensemble: largest ensemble; None: no limit.
        isolate: close a run that cannot be trained as ``failed`` and go on with the others; False: raise.
        log: file that the process writes to; None: the user's terminal.
        about: what others may want to know of this process.
    """

    jobs: Sequence[RunSpec]
    max_runs_per_ensemble: int | None = None
    isolate: bool = False
    log: Path | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def train(self, listener: Listener) -> list[float]:
        """Train to the end.

        Returns:
            For each job the last value of its ``optimized_metric``, or the worst there is; see
            :func:`~nc_sweeps.store.runs.last_value`.

        Raises:
            DataError: a data set cannot be had. Nothing was started.
            ConfigError: a run is too short for a step or too large for the memory, or the processes that it is to be
                spread over cannot be had. Nothing was started.
            CrewError: another process of the crew came to an end; the runs can be resumed.
            StoreError: a stored file is damaged. Nothing was started.
            InterruptedTraining: the process was told to stop; the runs are saved.
        """
        placements = {(job.config.compute.devices, job.config.compute.nodes): job.config.compute for job in self.jobs}
        if len(placements) > 1:
            raise ConfigError("compute.devices, compute.nodes: must be the same for all runs that train in one process")
        if not self.jobs:
            return []
        (compute,) = placements.values()
        return in_crew(compute, lambda train: self._lead(train, listener))

    def _lead(self, train: "Train", listener: Listener) -> list[float]:
        from nc_sweeps.store.leases import Worker
        from nc_sweeps.store.runs import FINAL, RunStore, last_value

        stores = {job.directory: RunStore(job.directory, job.config, job.overrides, self.log) for job in self.jobs}
        waiting = [store for store in stores.values() if store.status not in FINAL]
        if len(waiting) < len(stores):
            print(f"{len(stores) - len(waiting)} of {format_count(len(stores), 'run')} done already", file=sys.stderr)
        with Interruption() as interruption:
            for sweep, runs in groupby(waiting, lambda store: store.directory.parent):
                with Worker(sweep, self.jobs[0].config.compute.lease_seconds, self.about) as worker:
                    self._train_all(list(runs), worker, _Training(train, interruption, listener))
        return [last_value(job.directory, job.config.optimized_metric) for job in self.jobs]

    def _train_all(self, waiting: "list[RunStore]", worker: "Worker", training: "_Training") -> None:
        from nc_sweeps.store.runs import FINAL

        told = False
        while waiting:
            mine = [store for store in waiting if worker.claim(store.directory.name)]
            try:
                # Whoever held a run before may have finished it.
                self._isolated([store for store in mine if store.status not in FINAL], training)
            finally:
                for store in mine:
                    worker.release(store.directory.name)
            waiting = [store for store in waiting if store not in mine and store.status not in FINAL]
            if waiting and not mine:
                if not told:
                    print(f"another process trains {len(waiting)} of the runs; waiting for it", file=sys.stderr)
                told = True
                time.sleep(_LOOK)
            if training.interruption.signal is not None:
                raise InterruptedTraining(training.interruption.signal)

    def _isolated(self, stores: "list[RunStore]", training: "_Training") -> None:
        """Train runs; where that fails, each half, until the one that cannot be trained stands alone.

        So a bad run costs no other, and what is too much for the memory at once is tried in smaller ensembles.
        """
        try:
            self._train(stores, training)
        except Exception as error:
            # The other processes of a crew are still where the failure has left them.
            if not self.isolate or stores[0].config.compute.processes > 1:
                raise
            if len(stores) == 1:
                log.exception(f"{stores[0].directory}: {reason(error)}")
                stores[0].finish("failed", reason(error))
                training.listener.finished(1)
                return
            log.warning(f"{reason(error)}; trying {len(stores)} runs in halves")
        else:
            return
        _free_memory()
        middle = len(stores) // 2
        for half in (stores[:middle], stores[middle:]):
            self._isolated(half, training)

    def _train(self, stores: "list[RunStore]", training: "_Training") -> None:
        from nc_sweeps.store.runs import FINAL

        stores = [store for store in stores if store.status not in FINAL]
        if not stores:
            return
        with _without_collection():
            from nc_sweeps.data import load_all

        data = load_all([store.config.dataset for store in stores])

        # Here and not above: neither a pack that is done nor an error in the data need wait for Lightning.
        with _without_collection():
            from nc_sweeps.training.ensembles import LoadedRun, cut_into_ensembles

        checkpoints = [store.resume() for store in stores]
        runs = [
            LoadedRun(store.config, own, store, checkpoint.step, checkpoint.state, checkpoint.seconds)
            for store, own, checkpoint in zip(stores, data, checkpoints, strict=True)
        ]
        for run, store in zip(runs, stores, strict=True):
            store.steps = run.schedule.total
        parts = [part for group in _groups(runs) for part in cut_into_ensembles(group, self.max_runs_per_ensemble)]
        training.listener.begin(len(runs), sum(part.work for part in parts))
        for part in parts:
            training.train(part, training.interruption, training.listener.advance)
            training.listener.finished(len(part.runs))


def _groups(runs: "Sequence[LoadedRun]") -> "Iterable[list[LoadedRun]]":
    """Runs of equal shape that stand at the same step, in the order in which they were asked for."""
    groups: dict[tuple[str, int], list[LoadedRun]] = {}
    for run in runs:
        groups.setdefault((ensemble_key(run.config), run.step), []).append(run)
    return groups.values()


@contextmanager
def _without_collection() -> Iterator[None]:
    """For what makes a million objects that stay: looking for garbage among them takes an eighth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
