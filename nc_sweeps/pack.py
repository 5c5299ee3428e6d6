"""A pack: the runs that one worker process executes."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nc_sweeps.config import RunConfig, ensemble_key

if TYPE_CHECKING:
    from nc_sweeps.training.engine import Run


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

    Args:
        jobs: any mixture of runs; one asked for twice is trained once.
        max_runs_per_ensemble: largest ensemble; None: no limit.

    Returns:
        For each job the last value of its ``optimized_metric``; NaN where undefined.

    Raises:
        DataError: a data set cannot be had. Nothing was started.
        ConfigError: a run is too short for a step or too large for the memory. Nothing was started.
        StoreError: a stored file is damaged. Nothing was started.
        SystemExit: the process was told to stop; the runs can be resumed.
    """
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
                    ensemble.train(progress.advance)
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
