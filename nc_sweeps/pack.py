"""A pack: the runs that one worker process trains."""

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
from typing import TYPE_CHECKING, Any

from nc_sweeps.config import compute_ensemble_key
from nc_sweeps.errors import ConfigError, explain_error
from nc_sweeps.interruption import InterruptedTraining, Interruption
from nc_sweeps.run_spec import RunSpec
from nc_sweeps.training.crew import Crew
from nc_sweeps.training.listener import Listener
from nc_sweeps.training.processes import check_accelerator
from nc_sweeps.wording import format_count

if TYPE_CHECKING:
    from nc_sweeps.data import Dataset
    from nc_sweeps.store.leases import LeaseHolder
    from nc_sweeps.store.runs import RunStore
    from nc_sweeps.training.ensembles import LoadedRun

log = logging.getLogger(__name__)

#: Seconds between two looks at runs that other processes train.
_POLLING_SECONDS = 1.0


@dataclass
class Pack:
    """Runs that one process trains: those of equal shape together. It leaves alone what is done, and waits for what
    others train.

    Every process over which ``compute`` spreads the particles has the same pack; only the leader of the crew reads and
    writes the store.

    Args:
        specs: any mixture of runs; a run that occurs twice is trained once.
        max_runs_per_ensemble: size of the largest ensemble; None: no limit.
        isolate: True: close a run that cannot be trained as ``failed`` and go on with the others; False: raise.
        log: file to which the process writes its output; None: the user's terminal.
        about: facts about this process, for others who look at the leases.
    """

    specs: Sequence[RunSpec]
    max_runs_per_ensemble: int | None = None
    isolate: bool = False
    log: Path | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def train(self, listener: Listener) -> list[float]:
        """Train to the end.

        Returns:
            For each spec the last value of its ``optimized_metric``, or the worst there is; see
            :meth:`~nc_sweeps.store.run_folder.RunFolder.last_value`.

        Raises:
            DataError: a data set cannot be had. Nothing was started.
            ConfigError: a run is too short for a step or too large for the memory, or the processes over which it is to
                be spread cannot be had. Nothing was started.
            CrewError: another process of the crew came to an end; the runs can be resumed.
            StoreError: a stored file is damaged. Nothing was started.
            InterruptedTraining: a signal asked to stop; the runs are saved.
        """
        computes = {(c.devices, c.nodes): c for c in (spec.config.compute for spec in self.specs)}
        if len(computes) > 1:
            raise ConfigError("compute.devices, compute.nodes: must be the same for all runs that train in one process")
        if not self.specs:
            return []
        (compute,) = computes.values()
        with Crew.join(compute) as crew:
            if not crew.is_leader:
                values: list[float] = crew.follow()
                return values
            with Interruption() as interruption:
                _Leader(self, crew, interruption, listener).train()
            return crew.dismiss(self._read_last_values())

    def _read_last_values(self) -> list[float]:
        from nc_sweeps.store.run_folder import RunFolder

        return [RunFolder(spec.directory).last_value(spec.config.optimized_metric) for spec in self.specs]


class _Leader:
    """The leader of a crew, at work on a pack."""

    def __init__(self, pack: Pack, crew: Crew, interruption: Interruption, listener: Listener) -> None:
        self.pack = pack
        self.crew = crew
        self.interruption = interruption
        self.listener = listener

    def train(self) -> None:
        """Train all runs of the pack, sweep by sweep."""
        from nc_sweeps.store.leases import LeaseHolder
        from nc_sweeps.store.runs import RunStore

        specs, pack = self.pack.specs, self.pack
        by_folder = {spec.directory: RunStore(spec.directory, spec.config, spec.overrides, pack.log) for spec in specs}
        stores = [*by_folder.values()]
        waiting = _select_unfinished(stores)
        if done := len(stores) - len(waiting):
            print(f"{done} of {format_count(len(stores), 'run')} done already", file=sys.stderr)
        for sweep, runs in groupby(waiting, lambda store: store.directory.parent):
            with LeaseHolder(sweep, specs[0].config.compute.lease_seconds, pack.about) as holder:
                self._train_sweep([*runs], holder)

    def _train_sweep(self, waiting: "list[RunStore]", holder: "LeaseHolder") -> None:
        """Train runs of one sweep as they become free, until all are done."""
        has_said_that_it_waits = False
        while waiting:
            claimed = [store for store in waiting if holder.claim(store.directory.name)]
            try:
                self._train_or_halve(claimed)
            finally:
                for store in claimed:
                    holder.release(store.directory.name)
            waiting = _select_unfinished([store for store in waiting if store not in claimed])
            if waiting and not claimed:
                if not has_said_that_it_waits:
                    print(f"another process trains {len(waiting)} of the runs; waiting for it", file=sys.stderr)
                has_said_that_it_waits = True
                time.sleep(_POLLING_SECONDS)
            if self.interruption.signal is not None:
                raise InterruptedTraining(self.interruption.signal)

    def _train_or_halve(self, stores: "list[RunStore]") -> None:
        """Train runs; if that fails, train each half, down to the single run that cannot be trained.

        So a bad run costs no other, and what is too much for the memory at once is tried in smaller ensembles.
        """
        # The process that held a run before may have finished it, or an ensemble may have, before another one failed.
        stores = _select_unfinished(stores)
        if not stores:
            return
        try:
            self._train(stores)
        except Exception as error:
            # The followers of a crew are still where the failure has left them.
            if not self.pack.isolate or stores[0].config.compute.processes > 1:
                raise
            if len(stores) == 1:
                log.exception(f"{stores[0].directory}: {explain_error(error)}")
                stores[0].finish("failed", explain_error(error))
                self.listener.finish_runs(1)
                return
            log.warning(f"{explain_error(error)}; trying {len(stores)} runs in halves")
        else:
            return
        _free_memory()
        middle = len(stores) // 2
        for half in (stores[:middle], stores[middle:]):
            self._train_or_halve(half)

    def _train(self, stores: "list[RunStore]") -> None:
        check_accelerator(stores[0].config.compute)
        with _pause_garbage_collection():
            from nc_sweeps.data import load_all

        data = load_all([store.config.dataset for store in stores])
        for note in sorted({note for store, own in zip(stores, data, strict=True) for note in _note_batch(store, own)}):
            print(note, file=sys.stderr)

        # Lightning is imported as late as here: neither a pack that is done nor an error in the data need wait for it.
        with _pause_garbage_collection():
            from nc_sweeps.training.ensembles import LoadedRun, cut_into_ensembles

        runs = []
        for store, own_data in zip(stores, data, strict=True):
            checkpoint = store.resume()
            run = LoadedRun(store.config, own_data, store, checkpoint.step, checkpoint.state, checkpoint.seconds)
            store.steps = run.schedule.total
            runs.append(run)
        limit = self.pack.max_runs_per_ensemble
        ensembles = [ensemble for group in _group_runs(runs) for ensemble in cut_into_ensembles(group, limit)]
        self.listener.begin(len(runs), sum(ensemble.work for ensemble in ensembles))
        for ensemble in ensembles:
            self.crew.train(ensemble, self.interruption, self.listener)
            self.listener.finish_runs(len(ensemble.runs))


def skip_garbage_collection_at_exit() -> None:
    """Let this process end at once. The interpreter would spend a second on the search for garbage among all that was
    loaded before it throws everything away.
    """
    atexit.register(gc.freeze)


def _select_unfinished(stores: "Iterable[RunStore]") -> "list[RunStore]":
    from nc_sweeps.store.summary import FINAL

    return [store for store in stores if store.status not in FINAL]


def _note_batch(store: "RunStore", data: "Dataset") -> Iterator[str]:
    """Give a line where a mini-batch would be larger than the training set."""
    size, samples = store.config.dynamics.batch_size, len(data.train.x)
    if size is not None and size > samples:
        yield f"dynamics.batch_size={size}: there are {samples} training samples; each step takes all of them"


def _group_runs(runs: "Iterable[LoadedRun]") -> "Iterable[list[LoadedRun]]":
    """Return groups of runs of equal shape that stand at the same step, in the order in which they were asked for."""
    groups: dict[tuple[str, int], list[LoadedRun]] = {}
    for run in runs:
        groups.setdefault((compute_ensemble_key(run.config), run.step), []).append(run)
    return groups.values()


@contextmanager
def _pause_garbage_collection() -> Iterator[None]:
    """Speed up imports that make a million objects to stay: the search for garbage takes an eighth of their time."""
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
