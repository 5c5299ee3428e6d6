"""A pack: the runs that one worker process executes."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nc_sweeps.config import RunConfig, ensemble_key
from nc_sweeps.errors import ConfigError
from nc_sweeps.training.crew import Report, in_crew

if TYPE_CHECKING:
    from nc_sweeps.training.engine import Ensemble, Run


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


def train_pack(jobs: Sequence[Job], max_runs_per_ensemble: int | None = None) -> list[float]:
    """Train runs, those of equal shape together, and leave alone what is done.

    Every process over which ``compute`` spreads the particles calls this; only the first reads and writes the store.
    Where no launcher has started the others, they are started here.

    Args:
        jobs: any mixture of runs that is spread over one number of devices and nodes; one asked for twice is trained
            once.
        max_runs_per_ensemble: largest ensemble; None: no limit.

    Returns:
        For each job the last value of its ``optimized_metric``; NaN where undefined.

    Raises:
        DataError: a data set cannot be had. Nothing was started.
        ConfigError: a run is too short for a step or too large for the memory, or the processes that it is to be
            spread over cannot be had. Nothing was started.
        StoreError: a stored file is damaged. Nothing was started.
        CrewError: another process of the crew came to an end; the runs can be resumed.
        SystemExit: the process was told to stop; the runs can be resumed.
    """
    placements = {(job.config.compute.devices, job.config.compute.nodes): job.config.compute for job in jobs}
    if len(placements) > 1:
        raise ConfigError("compute.devices, compute.nodes: must be the same for all runs that train in one process")
    if not jobs:
        return []
    (compute,) = placements.values()
    return in_crew(compute, lambda train: _train_pack(jobs, max_runs_per_ensemble, train))


def _train_pack(
    jobs: Sequence[Job], max_runs_per_ensemble: int | None, train: "Callable[[Ensemble, Report], None]"
) -> list[float]:
    from nc_sweeps.tracking.store import FINAL, RunStore

    stores = {job.directory: RunStore(job.directory, job.config, job.overrides) for job in jobs}
    waiting = [store for store in stores.values() if store.status not in FINAL]
    if len(waiting) < len(stores):
        print(f"{len(stores) - len(waiting)} of {len(stores)} runs are done already", file=sys.stderr)
    if waiting:
        from nc_sweeps.data import load_all

        data = load_all([store.config.dataset for store in waiting])

        # Here and not above: neither a pack that is done nor an error in the data need wait for Lightning.
        from nc_sweeps.report.progress import PackProgress
        from nc_sweeps.training.engine import Run, ensembles_of

        runs = [Run(store.config, own, store, *store.resume()) for store, own in zip(waiting, data, strict=True)]
        ensembles = [part for group in _groups(runs) for part in ensembles_of(group, max_runs_per_ensemble)]
        try:
            with PackProgress(len(runs), sum(ensemble.work for ensemble in ensembles)) as progress:
                for ensemble in ensembles:
                    train(ensemble, progress.advance)
                    progress.finished(len(ensemble.runs))
        except SystemExit as stop:
            # Lightning's answer to Ctrl-C and to SIGTERM, to the latter with an exit code of success.
            raise SystemExit("nc-train: interrupted; the same command goes on from the last checkpoints") from stop
    return [stores[job.directory].last(job.config.optimized_metric) for job in jobs]


def _groups(runs: "Sequence[Run]") -> "Iterable[list[Run]]":
    """Runs of equal shape that stand at the same step, in the order in which they were asked for."""
    groups: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        groups.setdefault((ensemble_key(run.config), run.step), []).append(run)
    return groups.values()
