"""The writer of a run's folder, which is valid at any moment.

Files are replaced in one piece, so a reader never sees half a file; a killed process may leave a hidden temporary
file. Rows may be ahead of the checkpoint; they are dropped and measured again when the run goes on.
"""

import math
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from nc_sweeps.config import RunConfig, compute_signature
from nc_sweeps.errors import StoreError
from nc_sweeps.metrics.catalogue import CLOCKS, METRICS
from nc_sweeps.store import checkpoint, files
from nc_sweeps.store.checkpoint import Checkpoint
from nc_sweeps.store.environment import describe_environment
from nc_sweeps.store.run_folder import RunFolder
from nc_sweeps.store.summary import MetricSummary, Progress, Summary

if TYPE_CHECKING:
    from torch import Tensor


class RunStore:
    """The writer of one run's folder. Nothing is written before the first row.

    Args:
        directory: path of the folder.
        config: configuration of the run.
        overrides: what the user typed.
        log: log file of the process that trains the run; None: the user's terminal.

    Attributes:
        folder: the same folder, for readers.
        steps: number of steps of the run, once it is known.
        rows: all measurements so far.
        started: time at which the run was begun, ISO 8601.
    """

    def __init__(self, directory: Path, config: RunConfig, overrides: list[str], log: Path | None = None) -> None:
        self.directory = directory
        self.folder = RunFolder(directory)
        self.config = config
        self.overrides = overrides
        self.log = log
        self.steps: int | None = None
        self.rows: list[dict[str, int | float]] = []
        self._written = 0
        self.started = _now()

    @property
    def status(self) -> str | None:
        """Status of the run: ``running``, ``completed``, ``diverged`` or ``failed``; None: it was never begun.

        Raises:
            StoreError: the summary cannot be read, or the folder holds another run.
        """
        if not self.folder.is_begun:
            return None
        summary = self.folder.read_summary()
        if summary.signature != compute_signature(self.config):
            raise StoreError(f"{self.directory}: holds the run {summary.signature}; give this one another folder")
        return summary.status

    def append(self, row: dict[str, int | float]) -> None:
        """Keep one row of measurements; see :class:`nc_sweeps.training.callbacks.RunRecord`."""
        self.rows.append(row)

    def flush(self) -> None:
        """Write the rows that are new."""
        if self._written == len(self.rows):
            return
        self._begin()
        self._write_rows()
        self._write_summary("running", "")
        self._written = len(self.rows)

    def _begin(self) -> None:
        if not self.folder.config_path.exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            files.write(self.folder.overrides_path, files.dump_yaml(self.overrides))
            files.write(self.folder.config_path, files.dump_yaml(asdict(self.config)))

    def save(self, state: "dict[str, Tensor]", step: int) -> None:
        """Write the rows so far and then the state after a step, from which the run goes on."""
        self.flush()
        checkpoint.write_state(self.folder.checkpoint_path, compute_signature(self.config), step, state)

    def finish(self, status: str, reason: str = "") -> None:
        """Close the run as ``completed``, ``diverged`` or ``failed``."""
        self.flush()
        self._begin()
        self._write_summary(status, reason)

    def resume(self) -> Checkpoint:
        """Read the checkpoint, and keep the rows up to it.

        Raises:
            StoreError: the checkpoint or the metrics cannot be read.
        """
        path = self.folder.checkpoint_path
        if not path.exists():
            return Checkpoint()
        step, state = checkpoint.read_state(path, compute_signature(self.config))
        self.rows = self.folder.read_metrics().filter(pl.col("step") <= step).to_dicts()
        if not self.rows:
            raise StoreError(
                f"{self.directory}: a checkpoint without its measurements; delete it to start the run over"
            )
        self.started = self.folder.read_summary().started
        return Checkpoint(step, state, self.rows[-1]["seconds"])

    def _write_rows(self) -> None:
        # Rows of an earlier version lack the metrics that were added since.
        names = dict.fromkeys(name for row in (self.rows[0], self.rows[-1]) for name in row)
        schema = {name: pl.Int64 if name == "step" else pl.Float64 for name in names}
        rows = [{name: row.get(name, math.nan) for name in names} for row in self.rows]
        frame = pl.DataFrame(rows, schema=schema)
        files.replace(self.folder.metrics_path, frame.write_parquet)

    def _write_summary(self, status: str, reason: str) -> None:
        last: dict[str, Any] = self.rows[-1] if self.rows else {}
        summary = Summary(
            signature=compute_signature(self.config),
            status=status,
            reason=reason,
            log=None if self.log is None else str(self.log),
            started=self.started,
            updated=_now(),
            progress=Progress(self.steps, **{name: last.get(name) for name in CLOCKS}),
            metrics={name: self._summarise(name) for name in METRICS if name in last},
            environment=describe_environment(),
        )
        summary.write(self.folder.summary_path)

    def _summarise(self, name: str) -> MetricSummary:
        metric = METRICS[name]
        values = [row.get(name, math.nan) for row in self.rows]
        defined = [
            (value, int(row["step"])) for value, row in zip(values, self.rows, strict=True) if math.isfinite(value)
        ]
        best, best_step = (max if metric.best == "max" else min)(defined, default=(None, None))
        undefined = None if len(defined) == len(values) else metric.undefined or "not finite"
        return MetricSummary(_drop_infinite(values[0]), _drop_infinite(values[-1]), best, best_step, undefined)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _drop_infinite(value: float) -> float | None:
    return value if math.isfinite(value) else None
