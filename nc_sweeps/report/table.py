"""The table at the end of a run or a sweep: where each metric started and where it ended."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from omegaconf import OmegaConf
from rich import box
from rich.console import Console
from rich.table import Table

#: Metrics of the table and their headings.
COLUMNS = {
    "loss/train": "loss",
    "nc1/train": "NC1\ntrain",
    "nc1/test": "NC1\ntest",
    "certificate/nc1_bound": "NC1\nbound",
    "balancedness": "NB",
    "error/test": "test\nerror",
}
_MAX_ROWS = 60


def print_table(summaries: Sequence[dict[str, Any]], console: Console) -> None:
    """Print one row for each point of the sweep, averaged over seeds.

    Args:
        summaries: of the runs, as :func:`nc_sweeps.tracking.store.run_summaries` gives them.
        console: where to print.
    """
    configs = [_choices(summary) for summary in summaries]
    axes = _axes(configs)
    points: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for config, summary in zip(configs, summaries, strict=True):
        points.setdefault(tuple(config.get(axis) for axis in axes), []).append(summary)

    seeds = max(len(runs) for runs in points.values())
    title = f"{len(summaries)} runs" + (f", mean of {seeds} seeds" if seeds > 1 else "")
    table = Table(
        title=title if len(summaries) > 1 else None, box=box.SIMPLE_HEAD, show_lines=True, collapse_padding=True
    )
    for axis in axes:
        table.add_column(axis.rpartition(".")[2], justify="right")
    table.add_column("")
    metrics = [name for name in COLUMNS if any(name in summary["metrics"] for summary in summaries)]
    for name in metrics:
        table.add_column(COLUMNS[name], justify="right")

    for point, runs in sorted(points.items(), key=lambda item: [_sortable(value) for value in item[0]])[:_MAX_ROWS]:
        table.add_row(*map(str, point), "[dim]start[/dim]\nend", *(_cell(runs, name) for name in metrics))
    console.print(table)
    if len(points) > _MAX_ROWS:
        console.print(f"… and {len(points) - _MAX_ROWS} more points", highlight=False)
    for summary in summaries:
        if summary["status"] == "diverged":
            console.print(f"diverged: {summary['directory']}: {summary['reason']}", style="red", highlight=False)


def _choices(summary: dict[str, Any]) -> dict[str, Any]:
    from nc_sweeps.tracking.store import flat_config

    config = flat_config(OmegaConf.load(Path(summary["directory"], "config.yaml")))
    # The data set repeats the knobs of the group `separation`, and its seed the run's.
    aliases = {f"dataset.{key}" for key in ("margin", "distance", "seed")}
    return {key: value for key, value in config.items() if key not in aliases}


def _axes(configs: Sequence[dict[str, Any]]) -> list[str]:
    """Keys that vary from run to run, the seed aside."""
    keys = {key: None for config in configs for key in config if key != "seed"}
    return [key for key in keys if len({repr(config.get(key)) for config in configs}) > 1]


def _cell(runs: Sequence[dict[str, Any]], name: str) -> str:
    def mean(which: str) -> str:
        values = [run["metrics"].get(name, {}).get(which) for run in runs]
        defined = [value for value in values if value is not None]
        return _number(fmean(defined)) if defined else "–"

    return f"[dim]{mean('first')}[/dim]\n{mean('last')}"


def _number(value: float) -> str:
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) >= 1e-3:
        return f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _sortable(value: Any) -> tuple[int, Any]:
    return (0, value) if isinstance(value, int | float) else (1, str(value))
