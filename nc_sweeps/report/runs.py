"""One run in the terminal, and several beside each other."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from nc_sweeps.errors import StoreError
from nc_sweeps.metrics.catalogue import CLOCKS, METRICS
from nc_sweeps.report.digest import QUANTITIES
from nc_sweeps.report.table import format_number
from nc_sweeps.store.runs import is_measured, load_runs, read_config, read_metrics, read_summary

_SHOWN = [quantity.name for quantity in QUANTITIES]
_BLOCKS = "▁▂▃▄▅▆▇█"
_CURVE = 40


def describe_run(directory: Path) -> RenderableType:
    """A run: how it stands, its curves, its configuration.

    Args:
        directory: of the run.

    Raises:
        StoreError: it holds no run, or a file cannot be read.
    """
    summary, labels = _read(directory)
    clocks = "  ".join(
        f"{name} {format_number(value)}" for name, value in summary["progress"].items() if value is not None
    )
    head = Text(f"{directory}: {summary['status']}" + (f": {summary['reason']}" if summary["reason"] else ""))
    if not is_measured(directory):
        return Group(head, _configuration(labels))
    rows = read_metrics(directory)
    curves = Table(box=box.SIMPLE_HEAD)
    curves.add_column("")
    for heading in ("first", "last", "best"):
        curves.add_column(heading, justify="right")
    curves.add_column(
        f"row by row, from {format_number(rows['time'][0])} to {format_number(rows['time'][-1])}, logarithmic"
    )
    for name in (name for name in _SHOWN if name in rows.columns):
        values = rows[name].to_list()
        entry = summary["metrics"][name]
        cells = (format_number(math.nan if entry[key] is None else entry[key]) for key in ("first", "last", "best"))
        curves.add_row(name, *cells, draw_sparkline(values))
    return Group(head, clocks, curves, _configuration(labels))


def compare_runs(directories: Sequence[Path]) -> RenderableType:
    """Runs beside each other: what was asked differently, and where each ended.

    Args:
        directories: of the runs.

    Raises:
        StoreError: one holds no measured run, or a file cannot be read.
    """
    for directory in directories:
        _read(directory)
        if not is_measured(directory):
            raise StoreError(f"{directory}: nothing was measured yet")
    table = load_runs(directories).group_by("signature", maintain_order=True).last()
    if table.height < len(directories):
        raise StoreError("the same run was named twice")
    keys = [name for name in table.columns if name not in {*METRICS, *CLOCKS} and table[name].n_unique() > 1]
    shown = Table(box=box.SIMPLE_HEAD)
    shown.add_column("")
    for directory in directories:
        shown.add_column(directory.name, justify="right", overflow="fold")
    for key in keys:
        if key != "signature":
            shown.add_row(key, *(Text(str(value)) for value in table[key]))
    shown.add_section()
    for name in (name for name in (*CLOCKS, *METRICS) if name in table.columns):
        if name in {*CLOCKS, *_SHOWN}:
            shown.add_row(name, *(format_number(value) for value in table[name]))
    return shown


def draw_sparkline(values: Sequence[float]) -> str:
    """A curve in a line of text, on a logarithmic scale; blank where a value is not positive and finite."""
    step = max(1, math.ceil(len(values) / _CURVE))
    kept = [*values[:-1:step], values[-1]]
    logs = [math.log(value) if value is not None and 0 < value < math.inf else None for value in kept]
    known = [value for value in logs if value is not None]
    if not known:
        return ""
    low, span = min(known), max(known) - min(known)
    heights = (None if x is None else round((x - low) / span * (len(_BLOCKS) - 1)) if span > 0 else 0 for x in logs)
    return "".join(" " if height is None else _BLOCKS[height] for height in heights)


def _read(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    if not (directory / "summary.json").exists():
        raise StoreError(f"{directory}: no run here; expected a folder with a summary.json")
    return read_summary(directory), read_config(directory)


def _configuration(labels: dict[str, Any]) -> RenderableType:
    groups: dict[str, list[str]] = {}
    for key, value in labels.items():
        group, _, name = key.rpartition(".")
        groups.setdefault(group, []).append(f"{name}: {'–' if value is None else value}")
    panels = [
        Panel(Text("\n".join(lines)), title=group or "run", title_align="left") for group, lines in groups.items()
    ]
    return Columns(panels)
