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

from nc_sweeps.errors import StoreError
from nc_sweeps.metrics.catalogue import METRICS
from nc_sweeps.report.averages import AVERAGED, describe_left_out
from nc_sweeps.report.axes import count_digits, find_axes, find_key, select_independent, shorten_names
from nc_sweeps.store.run_folder import RunFolder
from nc_sweeps.store.run_state import RunState
from nc_sweeps.store.summary import Summary
from nc_sweeps.store.sweep_folder import SweepFolder

#: Most rows of curves in a report, for all runs together; but each run keeps at least ``_MIN_POINTS``.
_MAX_ROWS = 40_000
_MIN_POINTS = 8
#: What Hydra makes of ``-m``.
_MULTIRUN = "hydra.mode=MULTIRUN"
#: A key with at most this many values has a colour and a cell for each.
DISCRETE = 12

#: Metrics of a report, in its order.
SHOWN = (
    "nc1/train",
    "nc1/test",
    "certificate/nc1_bound",
    "certificate/tightness",
    "loss/train",
    "error/test",
    "balancedness",
    "gradient_norm/u",
    "gradient_norm/parameters",
    "step/stability",
    "imbalance/law_deviation",
    "imbalance/expected_deviation",
)
#: Those of them that are charted along training only.
_ALONG_TRAINING = {
    "certificate/tightness",
    "loss/train",
    "gradient_norm/u",
    "gradient_norm/parameters",
    "step/stability",
    "imbalance/law_deviation",
    "imbalance/expected_deviation",
}


@dataclass(frozen=True)
class Quantity:
    """A metric as charts show it.

    Args:
        name: name in the catalogue.
        title: title of axes and columns.
        is_logarithmic: whether its axes are logarithmic.
    """

    name: str
    title: str
    is_logarithmic: bool

    @classmethod
    def of(cls, name: str) -> "Quantity":
        """Return a metric of the catalogue."""
        return cls(name, METRICS[name].title, METRICS[name].scale == "log")

    @property
    def field(self) -> str:
        """Name of its column in the data of charts."""
        return make_field(self.name)

    @property
    def has_end_chart(self) -> bool:
        """Whether its last values have a chart of their own."""
        return self.name not in _ALONG_TRAINING


@dataclass(frozen=True)
class Axis:
    """A configuration key whose value differs between runs.

    Args:
        key: dotted name of the key.
        title: short name.
        values: its values in order; None for runs without the key.
    """

    key: str
    title: str
    values: list[Any]

    @property
    def field(self) -> str:
        """Name of its column in the data of charts."""
        return make_field(self.key)

    @cached_property
    def digits(self) -> int | None:
        """Significant digits with which its values are shown, so that all differ; None: no value has a fraction."""
        return count_digits(self.values)

    @property
    def is_numeric(self) -> bool:
        """Whether all values are numbers."""
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.values)

    @property
    def is_discrete(self) -> bool:
        """Whether each value can have a colour of its own, as there are few of them or they are no numbers."""
        return len(self.values) <= DISCRETE or not self.is_numeric


@dataclass(frozen=True)
class Digest:
    """A sweep condensed to what its report shows.

    Args:
        sweep: folder of the sweep.
        over: configuration key over whose values curves are averaged.
        runs: one row for each run, with the columns ``run``, ``folder``, ``status`` (the state of
            :class:`nc_sweeps.store.run_state.RunState`), ``reason``, ``log``, ``seconds``, and the fields of the axes
            and of the last values of the quantities.
        curves: one row for each measurement, thinned: ``run``, ``point``, ``time`` and the fields of the quantities.
        axes: keys that were varied, the seed included; the main axes of charts come first.
        quantities: the report's metrics that were measured.
        measured: names of all metrics that were measured.
        configuration: every key, and how many runs have each of its values.
        invocations: entries of the manifest, one for each command.
        waiting: number of runs that were asked for and not begun.
        environments: versions, commits and hosts of the runs.
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
        """The axes of charts: those not averaged over, and not determined by an earlier one."""
        by_field = {axis.field: axis for axis in self.axes if axis.key not in {"seed", self.over}}
        return [by_field[name] for name in select_independent(self.runs, list(by_field))]

    @property
    def groups(self) -> list[Axis]:
        """The axes that distinguish one averaged curve from another."""
        return [axis for axis in self.axes if axis.key != self.over]

    @property
    def left_out(self) -> str:
        """How many runs the averages of last values leave out, in words; empty: none."""
        return describe_left_out(self.runs["status"], AVERAGED["runs"])

    @property
    def commands(self) -> list[str]:
        """Commands that train the runs again, for a shell."""
        commands = (_format_command(entry["invocation"], self.sweep) for entry in self.invocations)
        return list(dict.fromkeys(commands))


def digest_sweep(sweep: Path, over: str = "seed") -> Digest:
    """Condense a sweep, which may still be running.

    Args:
        sweep: folder of the sweep.
        over: configuration key over whose values curves are averaged, by its dotted name or its title in the report.

    Raises:
        StoreError: the folder holds no runs, or a file cannot be read.
        ConfigError: no run has the key ``over``, or several have that title.
    """
    folder = SweepFolder(sweep)
    runs = folder.run_folders()
    if not runs:
        raise StoreError(f"{sweep}: no runs here; expected folders with a summary.json")
    summaries, configs = [run.read_summary() for run in runs], [run.read_config() for run in runs]
    table = _tabulate(
        [{"signature": s.signature, **config} for s, config in zip(summaries, configs, strict=True)], schema={}
    )
    over = find_key(table, over)
    varied = _find_axes(table, over)
    if varied:
        order = table.select(pl.arg_sort_by([axis.key for axis in varied], nulls_last=True)).to_series()
        table = table[order]
        runs, summaries, configs = ([column[i] for i in order] for column in (runs, summaries, configs))
    measured = {name for summary in summaries for name in summary.metrics}
    quantities = _select_quantities(configs, measured)
    held = folder.held_runs(max(config["compute.lease_seconds"] for config in configs))
    rows = [
        _describe(number, summary, RunState.of(run.name, summary, run.name in held))
        | {quantity.field: summary.last(quantity.name) for quantity in quantities}
        for number, (run, summary) in enumerate(zip(runs, summaries, strict=True))
    ]
    invocations = folder.read_invocations()
    asked = {run["directory"] for entry in invocations for run in entry["runs"]}
    return Digest(
        sweep=sweep,
        over=over,
        runs=_tabulate(rows, {quantity.field: pl.Float64 for quantity in quantities}).with_columns(
            _without_infinity(table[axis.key]).alias(axis.field) for axis in varied
        ),
        curves=_read_curves(runs, quantities),
        axes=varied,
        quantities=quantities,
        measured=measured,
        configuration={
            key: Counter(str(config.get(key)) for config in configs)
            for key in dict.fromkeys(key for config in configs for key in config)
        },
        invocations=invocations,
        waiting=len(asked - {run.name for run in runs}),
        environments=[summary.environment for summary in summaries if summary.environment],
    )


def make_field(name: str) -> str:
    """Return a name without the characters that have a meaning in Vega."""
    return re.sub(r"\W", "_", name)


def _tabulate(rows: list[dict[str, Any]], schema: dict[str, Any]) -> pl.DataFrame:
    """Return rows as a table; a column of several types becomes text."""
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        kinds = {type(value) for value in values if value is not None}
        if len(kinds) > 1 and kinds != {int, float}:
            values = [None if value is None else str(value) for value in values]
        columns[name] = pl.Series(name, values, dtype=schema.get(name), strict=False)
    return pl.DataFrame(columns)


def _find_axes(table: pl.DataFrame, over: str) -> list[Axis]:
    keys = find_axes(table)
    if table["seed"].n_unique() > 1:
        keys.append("seed")
    if over in table.columns and over not in keys and table[over].n_unique() > 1:
        keys.append(over)
    keys.sort(key=lambda key: (key != "width.particles", not key.endswith((".margin", ".distance")), key == "seed"))
    names = shorten_names(keys)
    return [
        Axis(key, names[key], _without_infinity(table[key].unique().sort(nulls_last=True)).to_list()) for key in keys
    ]


def _select_quantities(configs: list[dict[str, Any]], measured: set[str]) -> list[Quantity]:
    """Return the report's metrics and those of the sweep's picture that were measured, or else the first that were."""
    own = [name for config in configs for name in json.loads(config.get("figure.y") or "[]")]
    wanted = [name for name in dict.fromkeys([*SHOWN, *own]) if name in measured]
    wanted = wanted or [name for name in METRICS if name in measured][: len(SHOWN)]
    return [Quantity.of(name) for name in wanted]


def _describe(number: int, summary: Summary, state: RunState) -> dict[str, Any]:
    return {
        "run": number,
        "folder": state.name,
        "status": state.state,
        "reason": state.reason,
        "log": summary.log,
        "seconds": summary.progress.seconds,
    }


def _read_curves(runs: list[RunFolder], quantities: list[Quantity]) -> pl.DataFrame:
    schema = {"run": pl.Int64, "point": pl.Int64, "time": pl.Float64}
    schema |= {quantity.field: pl.Float64 for quantity in quantities}
    frames = [pl.DataFrame(schema=schema)]
    for number, run in enumerate(runs):
        if run.is_measured:
            rows = run.read_metrics()
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
    kept = max(_MIN_POINTS, _MAX_ROWS // max(1, len(frames) - 1))
    # All runs keep the same points: averages over runs are taken point by point.
    longest = curves["point"].max() or 0
    assert isinstance(longest, int)
    points = {round(index * longest / (kept - 1)) for index in range(kept)}
    return curves.filter(pl.col("point").is_in(sorted(points))) if longest >= kept else curves


def _format_command(invocation: dict[str, Any], sweep: Path) -> str:
    if invocation.get("resume"):
        return shlex.join(["nc-sweep", "resume", str(sweep)])
    folders = [f"--config-dir={folder}" for folder in invocation.get("config_folders", [])]
    # The overrides of a sweep list all values, or say how its sweeper finds them; those of a run that was trained alone
    # are its own. Folders of early versions do not say which launcher it was.
    of_hydra = ["-m", *invocation.get("hydra", ["hydra/launcher=packed"])] if "launcher" in invocation else []
    of_hydra = [override for override in of_hydra if override != _MULTIRUN]
    return shlex.join(["nc-train", *of_hydra, *folders, *invocation.get("overrides", [])])


def _without_infinity(values: pl.Series) -> pl.Series:
    """Return values that JSON can hold: all become text where one is infinite."""
    if not values.dtype.is_float() or not values.is_infinite().any():
        return values
    texts = [None if value is None else repr(value).removesuffix(".0") for value in values]
    return pl.Series(values.name, texts, dtype=pl.String)
