"""The results that a command prints and writes when its runs have ended."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nc_sweeps.store.run_folder import RunFolder


def show_results(runs: "Sequence[RunFolder]", x: str, y: Sequence[str], notes: Sequence[str] = ()) -> bool:
    """Print the table of a sweep, its failures and where its files are; draw its picture and write its report.

    Args:
        runs: folders of its runs, at least one; each was begun.
        x, y: axes of the picture, as in the group ``figure`` of the configuration.
        notes: lines to print before the last one.

    Returns:
        Whether no run diverged or failed.
    """
    from rich.console import Console

    from nc_sweeps.report.table import tabulate_sweep
    from nc_sweeps.store.sweep_folder import load_runs

    sweep = runs[0].sweep
    measured = [run for run in runs if run.is_measured]
    if measured:
        table = load_runs(measured)
        Console().print(tabulate_sweep(table))
    bad = [(run, s) for run in runs if (s := run.read_summary()).status in {"diverged", "failed"}]
    for run, summary in bad:
        log = f" (log: {_shorten(Path(summary.log))})" if summary.log else ""
        print(f"{summary.status}: {_shorten(run.path)}: {summary.reason}{log}")
    if len(measured) > 1:
        from nc_sweeps.report.figures import draw_sweep

        draw_sweep(table, x, list(y)).save(sweep / "figure.svg")
        print(f"picture: {_shorten(sweep / 'figure.svg')}")
    if len(runs) > 1:
        from nc_sweeps.report.digest import digest_sweep
        from nc_sweeps.report.page import write_report

        print(f"report: {_shorten(write_report(digest_sweep(sweep)))}")
    for note in notes:
        print(note)
    print(f"results: {_shorten(sweep if len(runs) > 1 else runs[0].path)}")
    return not bad


def _shorten(path: Path) -> str:
    """Return a path relative to the working directory if it lies in it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
