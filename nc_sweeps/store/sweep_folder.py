"""The folder of a sweep: its runs, its manifest, and all its measurements as one table."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nc_sweeps.errors import StoreError
from nc_sweeps.metrics.catalogue import CLOCKS, METRICS
from nc_sweeps.store import leases, manifest
from nc_sweeps.store.run_folder import RunFolder
from nc_sweeps.store.run_state import RunState

if TYPE_CHECKING:
    import polars as pl

    from nc_sweeps.run_spec import RunSpec


@dataclass(frozen=True)
class SweepFolder:
    """The folder of a sweep, for readers.

    Args:
        path: path of the folder.
    """

    path: Path

    def run(self, name: str) -> RunFolder:
        """Return the folder of a run, whether or not it exists."""
        return RunFolder(self.path / name)

    def run_folders(self) -> list[RunFolder]:
        """Return the folders of the runs that were begun, by name."""
        return sorted((RunFolder(path.parent) for path in self.path.glob("*/summary.json")), key=lambda run: run.path)

    def read_invocations(self) -> list[dict[str, Any]]:
        """Read what every command asked for, in the order of time.

        Raises:
            StoreError: a file of the manifest cannot be read.
        """
        return [manifest.read(path) for path in manifest.list_paths(self.path)]

    def read_specs(self, only: Path | None = None, names: Collection[str] | None = None) -> "list[RunSpec]":
        """Read the runs that were asked for, each once.

        Args:
            only: one file of the manifest; None: all.
            names: folders of the runs that are wanted; None: all.

        Raises:
            StoreError: a file cannot be read, or holds a run that is not what its signature says.
        """
        specs: dict[str, RunSpec] = {}
        for path in [only] if only else manifest.list_paths(self.path):
            for spec in manifest.read_specs(path, self.path, names):
                specs.setdefault(spec.directory.name, spec)
        return list(specs.values())

    def held_runs(self, stale_after: float) -> set[str]:
        """Return the names of the runs that a living process holds.

        Args:
            stale_after: seconds of silence that mean death, where the process cannot be asked.
        """
        holders = leases.find_holders(self.path)
        alive = {holder for holder in set(holders.values()) if leases.is_alive(holder, stale_after, time.time())}
        return {run for run, holder in holders.items() if holder in alive}

    def run_states(self) -> list[RunState]:
        """Return the state of every run that was asked for.

        Raises:
            StoreError: there is no manifest, or a file cannot be read.
        """
        invocations = self.read_invocations()
        overrides = {run["directory"]: run["overrides"] for entry in invocations for run in entry["runs"]}
        if not overrides:
            raise StoreError(f"{self.path}: no manifest here; expected the folder of a sweep")
        bases = [base for entry in invocations for base in entry["bases"]]
        held = self.held_runs(max(base["compute"]["lease_seconds"] for base in bases))
        states = []
        for name, typed in overrides.items():
            run = self.run(name)
            states.append(RunState.of(name, run.read_summary() if run.is_begun else None, name in held, typed))
        return states


def load_sweep(directory: Path | str) -> "pl.DataFrame":
    """Load a whole sweep as one table: one row for each measurement of a run.

    Args:
        directory: folder of the sweep, or any folder of run folders.

    Returns:
        Columns ``signature``, ``status``, every configuration key by its dotted name (``width.particles``,
        ``separation.margin``, ``seed``, …), then ``step``, ``time``, ``epoch``, ``seconds`` and the metrics. Keys that
        a run does not have, and metrics that it did not measure, are null; undefined metrics are NaN. It is a table of
        Polars, whose ``to_pandas()`` needs pandas and pyarrow (``pip install pandas pyarrow``).

    Raises:
        StoreError: the folder holds no runs, or a file of one cannot be read.

    Example:
        >>> import nc_sweeps
        >>> table = nc_sweeps.load_sweep("results/first_light")  # doctest: +SKIP
    """
    runs = [run for run in SweepFolder(Path(directory)).run_folders() if run.is_measured]
    if not runs:
        raise StoreError(f"{directory}: no runs here; expected folders with a metrics.parquet")
    return load_runs(runs)


def load_runs(runs: Sequence[RunFolder]) -> "pl.DataFrame":
    """Load some runs, at least one and all measured, as :func:`load_sweep` loads a sweep."""
    import polars as pl

    frames = []
    for run in runs:
        summary = run.read_summary()
        labels = {"signature": summary.signature, "status": summary.status, **run.read_config()}
        columns = (pl.lit(value).alias(name) for name, value in labels.items())
        frames.append(run.read_metrics().select(*columns, pl.all()))
    table = pl.concat(frames, how="diagonal_relaxed")
    clocks_and_metrics = [name for name in (*CLOCKS, *METRICS) if name in table.columns]
    return table.select(pl.exclude(clocks_and_metrics), pl.col(clocks_and_metrics))
