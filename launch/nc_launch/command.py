"""Look after a sweep: its state, its results, its jobs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nc_sweeps.command import show_errors_in_one_line, show_version
from nc_sweeps.errors import UserError
from nc_sweeps.process import prepare_command
from nc_sweeps.wording import format_count

if TYPE_CHECKING:
    from nc_sweeps.run_spec import RunSpec

_HELP = """Look after a sweep: its state, its results, its jobs.

A sweep is a folder, <output_dir>/<name>: results/question after nc-train -m name=question …

\b
nc-sweep status results/question   how far it is
nc-sweep report results/question   everything in one file, report.html
nc-sweep resume results/question   train what is not done
nc-sweep query results/question 'select seed, "nc1/test" from runs'

Tab completion: nc-sweep --install-completion
"""

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=_HELP)


def _check_folder(folder: Path) -> Path:
    """Refuse a folder that is not there, before slow libraries are imported to read it."""
    if not folder.exists():
        raise UserError(f"{folder}: there is no such folder; expected the folder of a sweep")
    return folder


Sweep = Annotated[
    Path, typer.Argument(help="folder of the sweep, <output_dir>/<name>", metavar="DIR", callback=_check_folder)
]


@app.callback()
def _take_options(
    version: Annotated[
        bool, typer.Option("--version", help="show the version and exit", is_eager=True, callback=show_version)
    ] = False,
) -> None:
    pass


@app.command()
def status(sweep: Sweep) -> None:
    """Show runs, jobs, NC1 so far and the time left of a sweep.

    Only reads files and asks for the jobs.
    """
    from rich.console import Console

    from nc_launch.status import make_status

    Console().print(make_status(sweep), highlight=False)


@app.command()
def show(run: Annotated[Path, typer.Argument(help="folder of a run", metavar="RUN")]) -> None:
    """Show the state, the configuration and the curves of a run."""
    from rich.console import Console

    from nc_sweeps.report.runs import describe_run

    Console().print(describe_run(run), highlight=False)


@app.command()
def compare(runs: Annotated[list[Path], typer.Argument(help="folders of runs", metavar="RUN RUN")]) -> None:
    """Show where runs differ, and their last values, side by side."""
    from rich.console import Console

    from nc_sweeps.report.runs import compare_runs

    Console().print(compare_runs(runs), highlight=False)


@app.command()
def query(
    sweep: Sweep,
    question: Annotated[str, typer.Argument(help="SQL over the tables runs and measurements", metavar="SQL")],
) -> None:
    """Run an SQL query over the measurements of a sweep.

    The answer is a table at a terminal, and CSV anywhere else.

    There are two tables: measurements, which nc_sweeps.load_sweep returns, and runs, with the last row of each run. Put
    names with dots or slashes in double quotes: nc-sweep query DIR 'select seed, "nc1/train" from runs order by seed'
    """
    from rich.console import Console

    from nc_sweeps.report.query import query_sweep, tabulate_answer

    answer = query_sweep(sweep, question)
    console = Console()
    if console.is_terminal:
        console.print(tabulate_answer(answer), highlight=False)
    else:
        print(answer.write_csv(), end="")


@app.command()
def report(
    sweep: Sweep,
    over: Annotated[str, typer.Option(help="key over whose values the curves are averaged", metavar="KEY")] = "seed",
    figures: Annotated[
        Path | None, typer.Option(help="folder for the charts as PDF, SVG and PNG, one column wide", metavar="DIR")
    ] = None,
) -> None:
    """Write the report of a sweep, report.html.

    It is one file with everything, for a browser. The sweep may still be running.
    """
    from nc_sweeps.report.digest import digest_sweep
    from nc_sweeps.report.page import write_report
    from nc_sweeps.store import files

    condensed = digest_sweep(sweep, over)
    if figures:
        files.make_folder(figures)
    print(f"report: {write_report(condensed)}")
    if figures:
        from nc_sweeps.report.paper import write_figures

        print(f"figures: {len(write_figures(condensed, figures))} in {figures}")
    if condensed.left_out:
        print(f"not in the averages of last values: {condensed.left_out}")


@app.command()
def attach(sweep: Sweep) -> None:
    """Wait for the latest submission of a sweep; show the results."""
    from rich.console import Console

    from nc_launch.jobs import Jobs
    from nc_launch.submission import find_submissions
    from nc_launch.watch import Watch
    from nc_sweeps.store.sweep_folder import SweepFolder

    submissions = find_submissions(sweep)
    if not submissions:
        raise UserError(f"{sweep}: nothing was submitted here")
    latest = submissions[-1]
    specs = SweepFolder(sweep).read_specs(names=set(latest.run_names))
    Watch(Jobs(latest), specs, Console(stderr=True)).wait()
    _show_results(specs)


@app.command()
def resume(
    sweep: Sweep,
    launcher: Annotated[str, typer.Option(help="packed, slurm, or as, the launcher of the last submission")] = "as",
) -> None:
    """Train all runs of a sweep that are not done.

    The manifest of the sweep says which runs were asked for.
    """
    from dataclasses import replace

    from rich.console import Console

    from nc_launch.launching import launch
    from nc_launch.settings import SETTINGS
    from nc_launch.submission import Origin, find_submissions
    from nc_sweeps.store.sweep_folder import SweepFolder

    folder = sweep.absolute()
    specs = SweepFolder(folder).read_specs()
    if not specs:
        raise UserError(f"{sweep}: no manifest here; expected the folder of a sweep")
    submissions = find_submissions(folder)
    origin = submissions[-1].origin if submissions else Origin("packed", SETTINGS["packed"]())
    if launcher not in {"as", origin.backend_name}:
        if launcher not in SETTINGS:
            raise UserError(f"--launcher={launcher}: must be one of {', '.join(SETTINGS)}")
        origin = Origin(launcher, SETTINGS[launcher]())
    settings = replace(origin.settings, wait=True, dry_run=False)
    launch(specs, origin.backend_name, settings, {"resume": True}, Console(stderr=True))
    _show_results(specs)


@app.command()
def cancel(sweep: Sweep) -> None:
    """Have all jobs of a sweep save their runs and end."""
    from nc_launch.jobs import Jobs
    from nc_launch.submission import find_submissions

    cancelled = 0
    for submission in find_submissions(sweep):
        jobs = Jobs(submission)
        alive = jobs.find_states()
        if alive:
            jobs.cancel()
        cancelled += len(alive)
    print(f"{format_count(cancelled, 'job')} cancelled; nc-sweep resume {sweep} goes on with what is not done")


@app.command()
def sync(sweep: Sweep) -> None:
    """Publish a sweep to Weights & Biases.

    What is published already is left alone. Without an API key, runs go to offline folders.
    """
    from rich.console import Console

    from nc_sweeps.publish.sync import sync

    for line in sync(sweep, Console(stderr=True)):
        print(line)


@app.command()
def dashboard(
    sweep: Sweep,
    json: Annotated[Path | None, typer.Option(help="only write the specification to a file, without network")] = None,
) -> None:
    """Make dashboards of a sweep on Weights & Biases.

    They are a workspace and a W&B report with the figures of the sweep; a second call replaces them.
    """
    from nc_sweeps.publish.dashboard import Dashboard
    from nc_sweeps.store import files

    board = Dashboard(sweep)
    if json is not None:
        files.make_folder(json.parent)
        files.write(json, board.dump_json().encode())
        return
    for link in board.save():
        print(link)


def _show_results(specs: "Sequence[RunSpec]") -> None:
    """Show the results of runs.

    Raises:
        SystemExit: with code 1, if a run diverged or failed.
    """
    from nc_sweeps.publish.published import describe_published
    from nc_sweeps.report.results import show_results
    from nc_sweeps.store.run_folder import RunFolder

    figure = specs[0].config.figure
    runs = [run for spec in specs if (run := RunFolder(spec.directory)).is_begun]
    if runs and not show_results(runs, figure.x, figure.y, describe_published(runs)):
        raise SystemExit(1)


def main() -> None:
    """Run ``nc-sweep``."""
    with show_errors_in_one_line("nc-sweep"):
        prepare_command()
        app()
