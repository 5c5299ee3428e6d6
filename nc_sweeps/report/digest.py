"""A sweep condensed to what its report and its figures show."""

import json
import re
import shlex
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from nc_sweeps.errors import ConfigError, StoreError
from nc_sweeps.metrics.catalogue import METRICS
from nc_sweeps.report.axes import find_axes, select_independent, shorten_names
from nc_sweeps.store import manifest
from nc_sweeps.store.leases import held
from nc_sweeps.store.runs import is_measured, read_config, read_metrics, read_summary, run_directories

#: Rows of curves that a report holds at most, all runs together; each run keeps at least ``_LEAST_POINTS``.
_MOST_ROWS = 40_000
_LEAST_POINTS = 8
#: Values of a key up to which each has a colour, a cell and a filter of its own.
DISCRETE = 12


@dataclass(frozen=True)
class Quantity:
    """A metric as it is shown.

    Args:
        name: in the catalogue.
        title: on axes and in tables.
        is_logarithmic: scale; values that are not positive have no place on it.
        has_end_chart: whether its last values have a picture of their own.
    """

    name: str
    title: str
    is_logarithmic: bool = True
    has_end_chart: bool = True

    @property
    def field(self) -> str:
        """Its column in what the charts read."""
        return field(self.name)


#: In the order in which the report shows them.
QUANTITIES = (
    Quantity("nc1/train", "NC1, training"),
    Quantity("nc1/test", "NC1, test"),
    Quantity("certificate/nc1_bound", "bound of NC1"),
    Quantity("certificate/tightness", "NC1 / bound", is_logarithmic=False, has_end_chart=False),
    Quantity("loss/train", "loss", has_end_chart=False),
    Quantity("error/test", "test error", is_logarithmic=False),
    Quantity("balancedness", "balancedness NB"),
    Quantity("gradient_norm/u", "gradient norm, first layer", has_end_chart=False),
    Quantity("gradient_norm/parameters", "gradient norm", has_end_chart=False),
    Quantity("imbalance/law_deviation", "deviation from the imbalance law", has_end_chart=False),
    Quantity("imbalance/expected_deviation", "deviation that N particles make", has_end_chart=False),
)


@dataclass(frozen=True)
class Axis:
    """A key whose value differs between runs.

    Args:
        key: of the configuration.
        title: short name.
        values: in order; null for runs without the key.
    """

    key: str
    title: str
    values: list[Any]

    @property
    def field(self) -> str:
        """Its column in what the charts read."""
        return field(self.key)

    @property
    def is_numeric(self) -> bool:
        """Whether all values are numbers."""
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.values)

    @property
    def is_discrete(self) -> bool:
        """Whether there are so few values that each can be told apart."""
        return len(self.values) <= DISCRETE or not self.is_numeric


@dataclass(frozen=True)
class Digest:
    """A sweep, condensed.

    Args:
        sweep: folder of the runs.
        over: key over whose values curves are averaged.
        runs: a row a run: ``run``, ``folder``, ``status`` (``stopped``: begun, and nobody goes on with it),
            ``reason``, ``log``, ``seconds``, ``done``, the axes and the last value of each quantity, by their fields.
        curves: a row a measurement, thinned: ``run``, ``point``, ``time`` and the quantities, by their fields.
        axes: what was varied, the seed included; the picture's main axes first.
        quantities: those that were measured.
        measured: names of all metrics that were.
        configuration: every key and how many runs have which of its values.
        invocations: what each command asked for, from the manifest.
        waiting: runs that were asked for and never begun.
        environments: of the runs, from their summaries.
    """

    sweep: Path
    over: str
    runs: pl.DataFrame
    curves: pl.DataFrame
    axes: list[Axis]
    quantities: list[Quantity]
    measured: set[str]
    configuration: dict[str, Counter[str]]
    invocations: list[dict[str, Any]]
    waiting: int
    environments: list[dict[str, Any]]

    @cached_property
    def main_axes(self) -> list[Axis]:
        """The axes of pictures: not averaged over, and not decided by one before."""
        by_field = {axis.field: axis for axis in self.axes if axis.key not in {"seed", self.over}}
        return [by_field[name] for name in select_independent(self.runs, list(by_field))]

    @property
    def groups(self) -> list[Axis]:
        """The axes that tell one averaged curve from another."""
        return [axis for axis in self.axes if axis.key != self.over]

    @property
    def commands(self) -> list[str]:
        """What brings the runs about again, in a shell."""
        commands = (_command(entry["invocation"], self.sweep) for entry in self.invocations)
        return list(dict.fromkeys(commands))


def digest_sweep(sweep: Path, over: str = "seed") -> Digest:
    """Condense a sweep; one that is still running as far as it is.

    Args:
        sweep: folder of the runs.
        over: configuration key over whose values curves are averaged.

    Raises:
        StoreError: the folder holds no runs, or a file cannot be read.
        ConfigError: no run has the key.
    """
    directories = run_directories(sweep)
    if not directories:
        raise StoreError(f"{sweep}: no runs here; expected folders with a summary.json")
    summaries = [read_summary(directory) for directory in directories]
    configs = [read_config(directory) for directory in directories]
    if not any(over in config for config in configs):
        raise ConfigError(f"--over={over}: no run has this key")
    table = _configurations(summaries, configs)
    varied = _axes(table, over)
    if varied:
        order = table.select(pl.arg_sort_by([axis.key for axis in varied], nulls_last=True)).to_series()
        table = table[order]
        directories = [directories[index] for index in order]
        summaries = [summaries[index] for index in order]
        configs = [configs[index] for index in order]
    measured = {name for summary in summaries for name in summary["metrics"]}
    chosen = _quantities(configs, measured)
    in_work = held(sweep, max(config["compute.lease_seconds"] for config in configs))
    labels = [
        _labels(number, directory, summary, directory.name in in_work)
        | {quantity.field: summary["metrics"].get(quantity.name, {}).get("last") for quantity in chosen}
        for number, (directory, summary) in enumerate(zip(directories, summaries, strict=True))
    ]
    runs = _table(labels, {quantity.field: pl.Float64 for quantity in chosen})
    invocations = manifest.invocations(sweep)
    asked = {run["directory"] for entry in invocations for run in entry["runs"]}
    return Digest(
        sweep=sweep,
        over=over,
        runs=runs.with_columns(_shown(table[axis.key]).alias(axis.field) for axis in varied),
        curves=_curves(directories, chosen),
        axes=varied,
        quantities=chosen,
        measured=measured,
        configuration={
            key: Counter(str(config.get(key)) for config in configs) for key in dict.fromkeys(_keys(configs))
        },
        invocations=invocations,
        waiting=len(asked - {directory.name for directory in directories}),
        environments=[summary["environment"] for summary in summaries if "environment" in summary],
    )


def field(name: str) -> str:
    """A name without the characters that mean something to Vega."""
    return re.sub(r"\W", "_", name)


def _keys(configs: list[dict[str, Any]]) -> list[str]:
    return [key for config in configs for key in config]


def _configurations(summaries: list[dict[str, Any]], configs: list[dict[str, Any]]) -> pl.DataFrame:
    rows = [{"signature": s["signature"], **config} for s, config in zip(summaries, configs, strict=True)]
    return _table(rows, {})


def _table(rows: list[dict[str, Any]], schema: dict[str, Any]) -> pl.DataFrame:
    """Rows as columns; a column of several types is of text."""
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        kinds = {type(value) for value in values if value is not None}
        if len(kinds) > 1 and kinds != {int, float}:
            values = [None if value is None else str(value) for value in values]
        columns[name] = pl.Series(name, values, dtype=schema.get(name), strict=False)
    return pl.DataFrame(columns)


def _axes(table: pl.DataFrame, over: str) -> list[Axis]:
    keys = find_axes(table)
    if table["seed"].n_unique() > 1:
        keys.append("seed")
    if over in table.columns and over not in keys and table[over].n_unique() > 1:
        keys.append(over)
    keys.sort(key=lambda key: (key != "width.particles", not key.endswith((".margin", ".distance")), key == "seed"))
    names = shorten_names(keys)
    return [Axis(key, names[key], _shown(table[key].unique().sort(nulls_last=True)).to_list()) for key in keys]


def _quantities(configs: list[dict[str, Any]], measured: set[str]) -> list[Quantity]:
    """The usual ones, what the sweep's own picture shows, and if none of these was measured, the first that were."""
    known = {quantity.name: quantity for quantity in QUANTITIES}
    own = [name for config in configs for name in json.loads(config.get("figure.y") or "[]")]
    wanted = [name for name in dict.fromkeys([*known, *own]) if name in measured]
    wanted = wanted or [name for name in METRICS if name in measured][: len(QUANTITIES)]
    return [known.get(name) or Quantity(name, name) for name in wanted]


def _labels(number: int, directory: Path, summary: dict[str, Any], is_held: bool) -> dict[str, Any]:
    progress = summary.get("progress", {})
    steps, step = progress.get("steps"), progress.get("step") or 0
    is_stopped = summary["status"] == "running" and not is_held
    return {
        "run": number,
        "folder": directory.name,
        "status": "stopped" if is_stopped else summary["status"],
        "reason": "nobody goes on with it" if is_stopped else summary["reason"],
        "log": summary.get("log"),
        "done": step / steps if steps else None,
        "seconds": progress.get("seconds"),
    }


def _curves(directories: list[Path], quantities: list[Quantity]) -> pl.DataFrame:
    schema = {"run": pl.Int64, "point": pl.Int64, "time": pl.Float64}
    schema |= {quantity.field: pl.Float64 for quantity in quantities}
    frames = [pl.DataFrame(schema=schema)]
    for number, directory in enumerate(directories):
        if is_measured(directory):
            rows = read_metrics(directory)
            frames.append(
                rows.select(
                    pl.lit(number, pl.Int64).alias("run"),
                    pl.int_range(pl.len(), dtype=pl.Int64).alias("point"),
                    pl.col("time").cast(pl.Float64),
                    *(
                        pl.col(quantity.name).alias(quantity.field).cast(pl.Float64)
                        for quantity in quantities
                        if quantity.name in rows.columns
                    ),
                )
            )
    curves = pl.concat(frames, how="diagonal")
    kept = max(_LEAST_POINTS, _MOST_ROWS // max(1, len(frames) - 1))
    # All runs keep the same points: averages over runs are taken point by point.
    longest = curves["point"].max() or 0
    assert isinstance(longest, int)
    points = {round(index * longest / (kept - 1)) for index in range(kept)}
    return curves.filter(pl.col("point").is_in(sorted(points))) if longest >= kept else curves


def _command(invocation: dict[str, Any], sweep: Path) -> str:
    if invocation.get("resume"):
        return shlex.join(["nc-sweep", "resume", str(sweep)])
    # Overrides of a sweep hold all its values; those of a run trained alone are its own.
    several = ["-m", "hydra/launcher=packed"] if "launcher" in invocation else []
    return shlex.join(["nc-train", *several, *invocation.get("overrides", [])])


def _shown(values: pl.Series) -> pl.Series:
    """JSON has no infinity: where there is one, all values are text."""
    if not values.dtype.is_float() or not values.is_infinite().any():
        return values
    return pl.Series(values.name, [None if value is None else f"{value:g}" for value in values], dtype=pl.String)
