"""The status of a sweep for a terminal, from its files and its jobs; nothing is written."""

import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from nc_launch.jobs import Jobs
from nc_launch.pack_progress import PackProgress
from nc_launch.submission import find_submissions
from nc_sweeps.store.run_state import RunState
from nc_sweeps.store.sweep_folder import SweepFolder
from nc_sweeps.wording import format_count

#: Largest number of lines in a list.
_LINES = 20


def make_status(sweep: Path) -> RenderableType:
    """Return the status of a sweep.

    Raises:
        StoreError: there is no manifest, or a file cannot be read.
    """
    runs = SweepFolder(sweep).run_states()
    counts = Counter(run.state for run in runs)
    measured = [run.nc1 for run in runs if not math.isnan(run.nc1)]
    nc1 = f"; NC1 so far {min(measured):.2g} … {max(measured):.2g}" if measured else ""
    lines: list[RenderableType] = [
        f"{sweep}: {format_count(len(runs), 'run')}: "
        f"{', '.join(f'{count} {state}' for state, count in counts.most_common())}{nc1}"
    ]
    begun = [run for run in runs if run.state in {"running", "stopped"}]
    if begun:
        lines.append(_make_run_table(begun, _shorten_overrides(runs)))
    jobs = _make_job_table(sweep)
    if jobs.row_count:
        lines.append(jobs)
    bad = [f"{run.state}: {run.name}: {run.reason}" for run in runs if run.state in {"diverged", "failed"}]
    lines += bad[:_LINES]
    if len(bad) > _LINES:
        lines.append(f"… and {len(bad) - _LINES} more")
    if counts["stopped"] + counts["failed"] or (counts["waiting"] and not jobs.row_count):
        lines.append(f"nc-sweep resume {sweep} goes on with what is not done")
    return Group(*lines)


def _make_run_table(runs: Sequence[RunState], overrides: dict[str, str]) -> Table:
    """Return a table of runs.

    Args:
        runs: the runs.
        overrides: what to show of the overrides of each run, by its name.
    """
    table = Table(box=box.SIMPLE_HEAD, caption=f"… and {len(runs) - _LINES} more" if len(runs) > _LINES else None)
    for heading in ("run", "state"):
        table.add_column(heading, no_wrap=True)
    for heading in ("done", "NC1", "left"):
        table.add_column(heading, justify="right", no_wrap=True)
    if differ := any(overrides.values()):
        table.add_column("overrides", overflow="fold")
    for run in runs[:_LINES]:
        nc1 = "–" if math.isnan(run.nc1) else f"{run.nc1:.2g}"
        row = [run.name, run.state, f"{run.progress:.0%}", nc1, _format_duration(run.seconds_left)]
        table.add_row(*row, *[overrides[run.name]] * differ)
    return table


def _shorten_overrides(runs: Sequence[RunState]) -> dict[str, str]:
    """Return the overrides of each run that not all runs share, by its name, with the last words of their keys as far
    as these tell them apart.
    """
    shared = set.intersection(*(set(run.overrides) for run in runs)) if runs else set()
    keys = {text.partition("=")[0] for run in runs for text in run.overrides if text not in shared}
    last_words = Counter(key.rpartition(".")[2] for key in keys)
    own = {run.name: [text for text in run.overrides if text not in shared] for run in runs}

    def shorten(text: str) -> str:
        key, equals, value = text.partition("=")
        last = key.rpartition(".")[2]
        return f"{last if last_words[last] == 1 else key}{equals}{value}"

    return {name: " ".join(map(shorten, texts)) for name, texts in own.items()}


def _make_job_table(sweep: Path) -> Table:
    """Return a table of the jobs that wait or run."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("job", "state", "node"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "job")
    for heading in ("runs", "done", "left"):
        table.add_column(heading, justify="right", no_wrap=True)
    for submission in find_submissions(sweep):
        states = Jobs(submission).find_states()
        for job, packs in submission.jobs.items():
            if job not in states:
                continue
            begun = [progress for pack in packs if (progress := submission.read_progress(pack)).has_begun]
            runs = sum(len(submission.packs[pack]) for pack in packs)
            nodes = " ".join(sorted({progress.node for progress in begun}))
            table.add_row(job, states[job], nodes, str(runs), *_format_progress(begun))
    return table


def _format_progress(packs: Sequence[PackProgress]) -> tuple[str, str]:
    """Return the share of work that is done in packs, and the time left."""
    work, total = sum(pack.work for pack in packs), sum(pack.total for pack in packs)
    if not work:
        return "–", "–"
    since = min(pack.since for pack in packs)
    return f"{work / total:.0%}", _format_duration((time.time() - since) * (total / work - 1))


def _format_duration(seconds: float) -> str:
    """Return hours, minutes and seconds; a dash for NaN."""
    if math.isnan(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
