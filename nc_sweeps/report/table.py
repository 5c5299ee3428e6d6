"""The table at the end of a run or a sweep, with the first and the last value of each metric."""

import math
from typing import Any

import polars as pl
from rich.markup import escape

from nc_sweeps.metrics.catalogue import METRICS
from nc_sweeps.report.averages import AVERAGED, describe_left_out
from nc_sweeps.report.axes import count_digits, find_axes, format_key, shorten_names
from nc_sweeps.report.fitted_table import Column, FittedTable

#: Metrics of the table, in its order, and how early each is left out of a narrow terminal.
_RANKS = {
    "loss/train": 5,
    "nc1/train": 1,
    "nc1/test": 3,
    "certificate/nc1_bound": 4,
    "balancedness": 6,
    "error/test": 2,
}
#: Most points of a sweep that the table lists.
_MAX_POINTS = 60


def tabulate_sweep(table: pl.DataFrame) -> FittedTable:
    """Return a table with one row for each point of the sweep: means over the seeds of completed runs.

    A run that is alone is shown however it ended.

    Args:
        table: measurements, as :func:`nc_sweeps.load_sweep` returns them.
    """
    keys, ranks = find_axes(table), _rank_metrics(table)
    runs = table.group_by("signature", *keys, maintain_order=True).agg(
        pl.col("status").last(),
        *(pl.col(name).first().name.suffix(" start") for name in ranks),
        *(pl.col(name).last().name.suffix(" end") for name in ranks),
    )
    is_averaged = pl.col("status").is_in(AVERAGED["runs"]) if runs.height > 1 else pl.lit(True)
    means = (pl.col(f"{name} {when}").filter(is_averaged).mean() for name in ranks for when in ("start", "end"))
    points = runs.group_by(keys or pl.lit("").alias("all"), maintain_order=True).agg(
        is_averaged.sum().alias("averaged"), pl.col("status").alias("statuses"), *means
    )
    points = points.sort(keys) if keys else points

    title = f"{runs.height} runs" if runs.height > 1 else ""
    if points["averaged"].max() > 1:  # type: ignore[operator]
        title += ", means over seeds"
    listed = points.head(_MAX_POINTS).to_dicts()
    notes = [f"… and {points.height - _MAX_POINTS} more points"] if points.height > _MAX_POINTS else []
    if runs.height > 1 and (left_out := describe_left_out(runs["status"], AVERAGED["runs"])):
        notes.append(f"left out: {left_out}")
    columns = [_list_key(name, [point[key] for point in listed]) for key, name in shorten_names(keys).items()]
    ends = ["end" if point["averaged"] else describe_left_out(point["statuses"], ()) for point in listed]
    columns.append(Column("", [f"[dim]start[/dim]\n{end}" for end in ends]))
    for name, rank in ranks.items():
        cells = [
            f"[dim]{format_number(point[f'{name} start'])}[/dim]\n{format_number(point[f'{name} end'])}"
            for point in listed
        ]
        columns.append(Column(METRICS[name].heading.replace(" ", "\n"), cells, rank, name=METRICS[name].heading))
    return FittedTable(columns, title, notes, has_lines=True, joinable=len(keys))


def _rank_metrics(table: pl.DataFrame) -> dict[str, int]:
    """Return the metrics that the table shows, or else the first that were measured, each with its rank."""
    ranks = {name: rank for name, rank in _RANKS.items() if name in table.columns}
    return ranks or {
        name: i for i, name in enumerate((n for n in METRICS if n in table.columns), 1) if i <= len(_RANKS)
    }


def _list_key(name: str, values: list[Any]) -> Column:
    digits = count_digits(values)
    cells = [escape(format_key(value, digits)) for value in values]
    is_wide = len(name) > max(map(len, cells), default=0)
    return Column(name.replace("_", "_\n") if is_wide else name, cells, name=name)


def format_number(value: Any) -> str:
    """Format a number with two digits in at most six characters; an undefined one is a dash."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value != 0 and not 1e-3 <= abs(value) < 1e3:
        mantissa, exponent = f"{value:.0e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"
