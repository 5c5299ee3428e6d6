"""The table at the end of a run or a sweep, with the first and the last value of each metric."""

import math
from typing import Any

import polars as pl
from rich import box
from rich.table import Table

from nc_sweeps.metrics.catalogue import METRICS
from nc_sweeps.report.axes import find_axes, shorten_names

#: Metrics of the table, in its order.
COLUMNS = ("loss/train", "nc1/train", "nc1/test", "certificate/nc1_bound", "balancedness", "error/test")
#: Most points of a sweep that the table lists.
_MAX_POINTS = 60


def tabulate_sweep(table: pl.DataFrame) -> Table:
    """Return a table with one row for each point of the sweep, averaged over seeds.

    Args:
        table: measurements, as :func:`nc_sweeps.load_sweep` returns them.
    """
    keys, metrics = find_axes(table), [name for name in COLUMNS if name in table.columns]
    runs = table.group_by("signature", *keys, maintain_order=True).agg(
        *(pl.col(name).first().name.suffix(" start") for name in metrics),
        *(pl.col(name).last().name.suffix(" end") for name in metrics),
    )
    points = _average_over_seeds(runs, keys)

    seeds = runs.height // points.height
    title = f"{runs.height} runs" + (f", mean of {seeds} seeds" if seeds > 1 else "")
    caption = f"… and {points.height - _MAX_POINTS} more points" if points.height > _MAX_POINTS else None
    result = Table(
        title=title if runs.height > 1 else None,
        caption=caption,
        box=box.SIMPLE_HEAD,
        show_lines=True,
        collapse_padding=True,
    )
    names = shorten_names(keys)
    for heading in (*(names[key] for key in keys), "", *(METRICS[name].heading.replace(" ", "\n") for name in metrics)):
        result.add_column(heading, justify="right")
    for point in points.head(_MAX_POINTS).iter_rows(named=True):
        cells = [
            f"[dim]{format_number(point[f'{name} start'])}[/dim]\n{format_number(point[f'{name} end'])}"
            for name in metrics
        ]
        named = ("–" if point[key] is None else str(point[key]) for key in keys)
        result.add_row(*named, "[dim]start[/dim]\nend", *cells)
    return result


def _average_over_seeds(runs: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    means = pl.exclude("signature", *keys).mean()
    return runs.group_by(keys).agg(means).sort(keys) if keys else runs.select(means)


def format_number(value: Any) -> str:
    """Format a number with two digits in at most six characters; an undefined one is a dash."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞"
    if value != 0 and not 1e-3 <= abs(value) < 1e3:
        mantissa, exponent = f"{value:.0e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"
