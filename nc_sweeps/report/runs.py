"""One run in a terminal, and several runs beside each other."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from nc_sweeps.errors import StoreError
from nc_sweeps.metrics.catalogue import CLOCKS, METRICS
from nc_sweeps.report.axes import count_digits, format_key
from nc_sweeps.report.digest import SHOWN
from nc_sweeps.report.fitted_table import Column, FittedTable
from nc_sweeps.report.table import format_number
from nc_sweeps.store.run_folder import RunFolder
from nc_sweeps.store.sweep_folder import load_runs

_BLOCKS = "▁▂▃▄▅▆▇█"
_CURVE = 20


def describe_run(directory: Path) -> RenderableType:
    """Describe a run: its status, its curves and its configuration.

    Args:
        directory: folder of the run.

    Raises:
        StoreError: it holds no run, or a file cannot be read.
    """
    run = _open(directory)
    summary, configuration = run.read_summary(), _list_configuration(run.read_config())
    head = Text(f"{directory}: {summary.status}" + (f": {summary.reason}" if summary.reason else ""))
    if not run.is_measured:
        return Group(head, configuration)
    progress = vars(summary.progress).items()
    clocks = "  ".join(f"{name} {format_number(value)}" for name, value in progress if value is not None)
    rows = run.read_metrics()
    names = [name for name in SHOWN if name in rows.columns] or [name for name in METRICS if name in rows.columns]
    entries = [summary.metrics[name] for name in names]
    start, end = (format_number(rows["time"][index]) for index in (0, -1))
    sparklines = [draw_sparkline(rows[name].to_list()) for name in names]
    columns = [Column("", names, is_text=True)]
    for rank, heading in ((0, "first"), (0, "last"), (1, "best")):
        columns.append(Column(heading, [format_number(getattr(entry, heading)) for entry in entries], rank))
    columns.append(Column(f"from {start} to {end},\nlogarithmic", sparklines, rank=2))
    return Group(head, clocks, FittedTable(columns), configuration)


def compare_runs(directories: Sequence[Path]) -> RenderableType:
    """Compare runs: the keys in which they differ, and where each ended.

    Args:
        directories: folders of the runs.

    Raises:
        StoreError: one holds no measured run, or a file cannot be read.
    """
    runs = [_open(directory) for directory in directories]
    for run in runs:
        if not run.is_measured:
            raise StoreError(f"{run.path}: nothing was measured yet")
    table = load_runs(runs).group_by("signature", maintain_order=True).last()
    if table.height < len(runs):
        raise StoreError("the same run was named twice")
    keys = [name for name in table.columns if name not in {*METRICS, *CLOCKS} and table[name].n_unique() > 1]
    keys = [key for key in keys if key != "signature"]
    metrics = [name for name in (*CLOCKS, *METRICS) if name in table.columns and name in {*CLOCKS, *SHOWN}]
    if not {*metrics} - {*CLOCKS}:
        metrics += [name for name in METRICS if name in table.columns]
    rows = [[Text(format_key(value, count_digits(table[key].to_list()))) for value in table[key]] for key in keys]
    rows += [[Text(format_number(value)) for value in table[name]] for name in metrics]
    columns = [Column(run.name, [row[number] for row in rows], rank=number) for number, run in enumerate(runs)]
    return FittedTable([Column("", [*keys, *metrics], is_text=True), *columns], sections={len(keys)}, continues=True)


def draw_sparkline(values: Sequence[float]) -> str:
    """Draw a curve as a line of text on a logarithmic scale: ``_`` at 0 or less, blank where undefined."""
    step = max(1, math.ceil(len(values) / _CURVE))
    kept = [*values[:-1:step], values[-1]]
    logs = [math.log(value) if value is not None and 0 < value < math.inf else None for value in kept]
    known = [value for value in logs if value is not None]
    low, span = min(known, default=0.0), max(known, default=0.0) - min(known, default=0.0)
    heights = (None if x is None else round((x - low) / span * (len(_BLOCKS) - 1)) if span > 0 else 0 for x in logs)
    gaps = ("_" if value is not None and value <= 0 else " " for value in kept)
    return "".join(
        gap if height is None else _BLOCKS[height] for height, gap in zip(heights, gaps, strict=True)
    ).rstrip()


def _open(directory: Path) -> RunFolder:
    run = RunFolder(directory)
    if not run.is_begun:
        raise StoreError(f"{directory}: no run here; expected a folder with a summary.json")
    return run


def _list_configuration(config: dict[str, Any]) -> RenderableType:
    groups: dict[str, list[str]] = {}
    for key, value in config.items():
        group, _, name = key.rpartition(".")
        groups.setdefault(group, []).append(f"{name}: {'–' if value is None else value}")
    panels = [
        Panel(Text("\n".join(lines)), title=group or "run", title_align="left") for group, lines in groups.items()
    ]
    return Columns(panels)
