"""The store: one directory a run, valid at any moment.

======================  ==============================================================================================
``config.yaml``         the resolved configuration
``overrides.yaml``      what the user typed
``metrics.parquet``     one row a measurement: step, time, epoch, seconds and every metric
``summary.json``        status, signature, first / last / best of each metric, timings, versions, git commit
``checkpoint.safetensors``  the state of the run and its step; with the configuration all that training needs to go on
======================  ==============================================================================================

Files are replaced in one piece, so a reader never sees half a file; a killed process may leave a hidden temporary
one. Rows may be ahead of the checkpoint; those are dropped and measured again when the run goes on.
"""

import importlib.metadata
import json
import math
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import polars as pl

from nc_sweeps.config import RunConfig, signature
from nc_sweeps.errors import StoreError
from nc_sweeps.metrics.catalogue import CLOCKS, METRICS
from nc_sweeps.store import files
from nc_sweeps.store.files import read_json

if TYPE_CHECKING:
    from torch import Tensor

FINAL = ("completed", "diverged")
#: Beside a copy of this package: the commit of the original.
COMMIT_FILE = "nc_sweeps.commit"


class RunStore:
    """The directory of one run. Nothing is written before the first row.

    Args:
        directory: of the run.
        config: of the run.
        overrides: what the user typed.
        log: where the process that trains it says more; None: on the user's terminal.
    """

    def __init__(self, directory: Path, config: RunConfig, overrides: list[str], log: Path | None = None) -> None:
        self.directory = directory
        self.config = config
        self.overrides = overrides
        self.log = log
        self.steps: int | None = None
        self.rows: list[dict[str, int | float]] = []
        self._written = 0
        self.started = datetime.now(UTC).isoformat(timespec="seconds")

    @property
    def status(self) -> str | None:
        """``running``, ``completed``, ``diverged``, ``failed``, or None if the run was never begun."""
        if not (self.directory / "summary.json").exists():
            return None
        summary = read_summary(self.directory)
        if summary["signature"] != signature(self.config):
            raise StoreError(f"{self.directory}: holds the run {summary['signature']}; give this one another folder")
        return str(summary["status"])

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
        if not (self.directory / "config.yaml").exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            files.write(self.directory / "overrides.yaml", files.as_yaml(self.overrides))
            files.write(self.directory / "config.yaml", files.as_yaml(asdict(self.config)))

    def save(self, state: "dict[str, Tensor]", step: int) -> None:
        """Keep the state after a step, and before it the rows so far, from which a run goes on."""
        self.flush()
        from safetensors.torch import save

        metadata = {"step": str(step), "signature": signature(self.config)}
        tensors = {name: value.contiguous() for name, value in state.items()}
        files.write(self.directory / "checkpoint.safetensors", save(tensors, metadata))

    def finish(self, status: str, reason: str = "") -> None:
        """Close the run as ``completed``, ``diverged`` or ``failed``."""
        self.flush()
        self._begin()
        self._write_summary(status, reason)

    def resume(self) -> "tuple[int, dict[str, Tensor] | None, float]":
        """Where to go on: step, state and training seconds so far; (0, None, 0) for a run without checkpoint.

        Raises:
            StoreError: the checkpoint or the metrics cannot be read.
        """
        from safetensors import SafetensorError, safe_open

        path = self.directory / "checkpoint.safetensors"
        if not path.exists():
            return 0, None, 0.0
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
                step = int(metadata["step"])
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{path}: damaged checkpoint ({error}); delete it to start the run over") from error
        if metadata.get("signature") != signature(self.config):
            raise StoreError(f"{path}: checkpoint of another run; delete it to start this one over")
        self.rows = read_metrics(self.directory).filter(pl.col("step") <= step).to_dicts()
        if not self.rows:
            raise StoreError(
                f"{self.directory}: a checkpoint without its measurements; delete it to start the run over"
            )
        self.started = read_summary(self.directory)["started"]
        return step, state, self.rows[-1]["seconds"]

    def _write_rows(self) -> None:
        schema = {name: pl.Int64 if name == "step" else pl.Float64 for name in self.rows[0]}
        frame = pl.DataFrame(self.rows, schema=schema)
        files.replace(self.directory / "metrics.parquet", frame.write_parquet)

    def _write_summary(self, status: str, reason: str) -> None:
        last = self.rows[-1] if self.rows else {}
        summary = {
            "signature": signature(self.config),
            "status": status,
            "reason": reason,
            "log": None if self.log is None else str(self.log),
            "started": self.started,
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
            "progress": {"steps": self.steps} | {name: last.get(name) for name in CLOCKS},
            "metrics": {name: self._extremes(name) for name in METRICS if name in last},
            "environment": environment(),
        }
        files.write(self.directory / "summary.json", orjson.dumps(summary, option=orjson.OPT_INDENT_2))

    def _extremes(self, name: str) -> dict[str, Any]:
        """First, last and best value; null where undefined, with the reason."""
        metric = METRICS[name]
        values = [row[name] for row in self.rows]
        defined = [(value, row["step"]) for value, row in zip(values, self.rows, strict=True) if math.isfinite(value)]
        best = (max if metric.best == "max" else min)(defined, default=(None, None))
        entry: dict[str, Any] = {"first": _finite(values[0]), "last": _finite(values[-1])}
        entry |= {"best": best[0], "best_step": best[1]}
        if len(defined) < len(values):
            entry["undefined"] = metric.undefined or "not finite"
        return entry


def read_metrics(directory: Path | str) -> pl.DataFrame:
    """All measurements of one run.

    Args:
        directory: of the run.

    Raises:
        StoreError: there is no readable ``metrics.parquet``.
    """
    path = Path(directory, "metrics.parquet")
    try:
        table = pl.read_parquet(path, glob=False)
        return table.select(*CLOCKS, pl.exclude(*CLOCKS))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise StoreError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error


def load_sweep(directory: Path | str) -> pl.DataFrame:
    """A whole sweep as one table: a row a measurement of a run.

    Args:
        directory: of the sweep (or any folder of run directories).

    Returns:
        Columns ``signature``, ``status``, every configuration key by its dotted name (``width.particles``,
        ``separation.margin``, ``seed``, …), then ``step``, ``time``, ``epoch``, ``seconds`` and the metrics. Keys that
        a run does not have, and metrics that it did not measure, are null; undefined metrics are NaN.

    Raises:
        StoreError: the folder holds no runs, or a file of one cannot be read.

    Example:
        >>> import nc_sweeps
        >>> table = nc_sweeps.load_sweep("results/first_light")  # doctest: +SKIP
    """
    directories = [run for run in run_directories(directory) if is_measured(run)]
    if not directories:
        raise StoreError(f"{directory}: no runs here; expected folders with a metrics.parquet")
    return load_runs(directories)


def load_runs(directories: Sequence[Path]) -> pl.DataFrame:
    """The given runs, at least one and all measured, as :func:`load_sweep` would load them."""
    frames = []
    for directory in directories:
        summary = read_summary(directory)
        labels = {
            "signature": summary["signature"],
            "status": summary["status"],
            **read_config(directory),
        }
        columns = (pl.lit(value).alias(name) for name, value in labels.items())
        frames.append(read_metrics(directory).select(*columns, pl.all()))
    table = pl.concat(frames, how="diagonal_relaxed")
    clocks_and_metrics = [name for name in (*CLOCKS, *METRICS) if name in table.columns]
    return table.select(pl.exclude(clocks_and_metrics), pl.col(clocks_and_metrics))


def run_directories(sweep: Path | str) -> list[Path]:
    """The runs of a sweep, in a stable order."""
    return sorted(path.parent for path in Path(sweep).glob("*/summary.json"))


def last_value(directory: Path, metric: str) -> float:
    """Last value of a run's metric; the worst there is, ∞ or −∞, where it is undefined and for a run that did not
    complete: sweepers that look for the best one do not take NaN.
    """
    summary = read_summary(directory)
    value = summary["metrics"].get(metric, {}).get("last")
    if value is None or summary["status"] != "completed":
        return math.inf if METRICS[metric].best == "min" else -math.inf
    return float(value)


def is_measured(directory: Path) -> bool:
    """Whether a run has measurements; one that failed before it began has none."""
    return (directory / "metrics.parquet").exists()


def read_summary(directory: Path) -> dict[str, Any]:
    """A run's ``summary.json``.

    Raises:
        StoreError: it cannot be read.
    """
    return read_json(directory / "summary.json", {"signature", "status", "reason", "started", "metrics"})


def read_config(directory: Path) -> dict[str, Any]:
    """A run's configuration, every key by its dotted name; lists as JSON.

    Raises:
        StoreError: it cannot be read.
    """
    return flat(files.read_yaml(directory / "config.yaml"))


@cache
def environment() -> dict[str, Any]:
    """Versions of what produced the numbers, the git commit of this code (None outside a checkout), and the host."""
    packages = ("nc-sweeps", "torch", "pytorch-lightning", "hydra-core", "omegaconf", "numpy", "polars")
    return {
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "git_commit": _git_commit(),
        "host": platform.node(),
        "machine": platform.machine(),
    }


def _git_commit() -> str | None:
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    copied = Path(__file__).parents[2] / COMMIT_FILE
    if copied.is_file():
        return copied.read_text() or None
    try:
        git("ls-files", "--error-unmatch", __file__)  # fails for a copy that lies in somebody else's repository
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every key of a nested configuration by its dotted name, after a prefix; lists as JSON."""
    if isinstance(config, dict):
        return {k: v for name, value in config.items() for k, v in flat(value, f"{prefix}{name}.").items()}
    return {prefix.rstrip("."): json.dumps(config) if isinstance(config, list) else config}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
