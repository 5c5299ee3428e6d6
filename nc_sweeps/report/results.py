"""The results that a command prints and writes when its runs have ended."""

import os
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

    from nc_sweeps.store.run_folder import RunFolder


def show_results(runs: "Sequence[RunFolder]", x: str, y: Sequence[str], notes: Sequence[str] = ()) -> bool:
    """Print the table of a command's runs, its failures and where its files are; draw the picture of their sweep and
    write its report.

    The table is of this command, picture and report are of all runs in the folder. A run that was trained alone gets
    neither, but those that are there are drawn again.

    Args:
        runs: folders of the runs of the command, at least one, all of one sweep; each was begun.
        x, y: axes of the picture, as in the group ``figure`` of the configuration.
        notes: lines to print before the last one.

    Returns:
        Whether no run diverged or failed.
    """
    from rich.console import Console

    from nc_sweeps.report.edge import describe_near_edge, find_near_edge
    from nc_sweeps.report.table import tabulate_sweep
    from nc_sweeps.store import files
    from nc_sweeps.store.sweep_folder import SweepFolder, load_runs

    sweep = runs[0].sweep
    measured = [run for run in runs if run.is_measured]
    if measured:
        table = load_runs(measured)
        Console().print(tabulate_sweep(table))
        if near := describe_near_edge(find_near_edge(table, "signature"), len(measured)):
            print(near)
        if statistics := _name_batch_norm(table):
            print(statistics)
    bad = [(run, s) for run in runs if (s := run.read_summary()).status in {"diverged", "failed"}]
    for run, summary in bad:
        log = f" (log: {_shorten(Path(summary.log))})" if summary.log else ""
        print(f"{summary.status}: {_shorten(run.path)}: {summary.reason}{log}")
    everything = SweepFolder(sweep).run_folders()
    all_measured = [run for run in everything if run.is_measured]
    picture, report = sweep / "figure.svg", sweep / "report.html"
    also = f" (all {len(everything)} runs of the folder)" if len(everything) > len(runs) else ""
    if len(all_measured) > 1 and (len(runs) > 1 or picture.exists()):
        from nc_sweeps.report.figures import draw_sweep

        drawn = StringIO()
        draw_sweep(load_runs(all_measured), x, list(y)).save(drawn, format="svg")
        files.write(picture, drawn.getvalue().encode())
        print(f"picture: {_shorten(picture)}{also}")
    if len(runs) > 1 or report.exists():
        from nc_sweeps.report.digest import digest_sweep
        from nc_sweeps.report.page import write_report

        print(f"report: {_shorten(write_report(digest_sweep(sweep)))}{also}")
    for note in notes:
        print(note)
    print(f"results: {_shorten(sweep if len(runs) > 1 else runs[0].path)}")
    return not bad


def _name_batch_norm(table: "pl.DataFrame") -> str:
    """Return one line that names the statistics of BatchNorm in measurements; nothing if no run has BatchNorm."""
    if "model.batch_norm" not in table.columns:
        return ""
    names = table["model.batch_norm"].drop_nulls().unique(maintain_order=True).to_list()
    return f"measured with {' and '.join(names)} statistics of BatchNorm (model.batch_norm)" if names else ""


def _shorten(path: Path) -> str:
    """Return a path relative to the working directory if it lies in it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
