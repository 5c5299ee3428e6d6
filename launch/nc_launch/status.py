"""How a sweep stands, told from its files and the queue; nothing is written."""

import math
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from nc_launch.submission import submissions
from nc_sweeps.errors import StoreError
from nc_sweeps.store import manifest
from nc_sweeps.store.leases import held
from nc_sweeps.store.runs import FINAL, read_summary
from nc_sweeps.wording import format_count

#: Lines of a list in the terminal.
_LISTED = 20


@dataclass(frozen=True)
class RunState:
    """Of one run.

    Args:
        name: of its folder.
        state: ``completed``, ``diverged``, ``failed``, ``running``, ``stopped`` (begun, and nobody goes on with it) or
            ``waiting``.
        progress: share of its steps that are done.
        seconds_left: at its present pace; NaN: unknown.
        nc1: on the training set, when it was last measured; NaN: not yet.
        reason: why it failed.
        overrides: what the user typed for it.
    """

    name: str
    state: str
    progress: float
    seconds_left: float
    nc1: float
    reason: str
    overrides: list[str]


def run_states(sweep: Path) -> list[RunState]:
    """All runs that were asked for.

    Raises:
        StoreError: there is no manifest, or a file cannot be read.
    """
    entries = manifest.invocations(sweep)
    asked = {run["directory"]: run["overrides"] for entry in entries for run in entry["runs"]}
    if not asked:
        raise StoreError(f"{sweep}: no manifest here; expected the folder of a sweep")
    bases = [base for entry in entries for base in entry["bases"]]
    in_work = held(sweep, max(base["compute"]["lease_seconds"] for base in bases))
    return [_state(sweep / name, overrides, name in in_work) for name, overrides in asked.items()]


def _state(directory: Path, overrides: list[str], is_held: bool) -> RunState:
    if not (directory / "summary.json").exists():
        state = "starting" if is_held else "waiting"
        return RunState(directory.name, state, 0.0, math.nan, math.nan, "", overrides)
    summary = read_summary(directory)
    state = summary["status"]
    if state not in {*FINAL, "failed"}:
        state = "running" if is_held else "stopped"
    done = summary["progress"]
    steps, step = done.get("steps") or 0, done.get("step") or 0
    progress = 1.0 if state == "completed" else step / steps if steps else 0.0
    left = (done.get("seconds") or 0.0) * (1 / progress - 1) if progress > 0 else math.nan
    nc1 = summary["metrics"].get("nc1/train", {}).get("last")
    return RunState(
        directory.name, state, progress, left, math.nan if nc1 is None else nc1, summary["reason"], overrides
    )


def status(sweep: Path) -> RenderableType:
    """How a sweep stands, for a terminal.

    Raises:
        StoreError: there is no manifest, or a file cannot be read.
    """
    runs = run_states(sweep)
    counts = Counter(run.state for run in runs)
    measured = [run.nc1 for run in runs if not math.isnan(run.nc1)]
    nc1 = f"; NC1 so far {min(measured):.2g} … {max(measured):.2g}" if measured else ""
    lines: list[RenderableType] = [
        f"{sweep}: {format_count(len(runs), 'run')}: "
        f"{', '.join(f'{count} {state}' for state, count in counts.most_common())}{nc1}"
    ]
    running = [run for run in runs if run.state in {"running", "stopped"}]
    if running:
        lines.append(_runs(running))
    jobs = _jobs(sweep)
    if jobs.row_count:
        lines.append(jobs)
    bad = [f"{run.state}: {run.name}: {run.reason}" for run in runs if run.state in {"diverged", "failed"}]
    lines += bad[:_LISTED]
    if len(bad) > _LISTED:
        lines.append(f"… and {len(bad) - _LISTED} more")
    if counts["stopped"] + counts["failed"] or (counts["waiting"] and not jobs.row_count):
        lines.append(f"nc-sweep resume {sweep} goes on with what is not done")
    return Group(*lines)


def _runs(runs: list[RunState]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, caption=f"… and {len(runs) - _LISTED} more" if len(runs) > _LISTED else None)
    for heading in ("run", "state", "done", "NC1", "left"):
        table.add_column(heading, justify="left" if heading in {"run", "state"} else "right", no_wrap=True)
    table.add_column("overrides", overflow="ellipsis", no_wrap=True, max_width=36)
    for run in runs[:_LISTED]:
        nc1 = "–" if math.isnan(run.nc1) else f"{run.nc1:.2g}"
        table.add_row(
            run.name, run.state, f"{run.progress:.0%}", nc1, _duration(run.seconds_left), " ".join(run.overrides)
        )
    return table


def _jobs(sweep: Path) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("job", "state", "node", "runs", "done", "left"):
        table.add_column(heading, justify="left" if heading in {"job", "state", "node"} else "right")
    for submission in submissions(sweep):
        alive = submission.place.states(list(submission.jobs))
        for job, packs in submission.jobs.items():
            if job not in alive:
                continue
            reports = [report for pack in packs if (report := submission.report(pack))]
            runs = sum(len(submission.packs[pack]) for pack in packs)
            nodes = " ".join(sorted({report["node"] for report in reports}))
            table.add_row(job, alive[job], nodes, str(runs), *_progress(reports))
    return table


def _progress(reports: list[dict[str, Any]]) -> tuple[str, str]:
    work, total = sum(report["work"] for report in reports), sum(report["total"] for report in reports)
    if not work:
        return "–", "–"
    since = min(report["since"] for report in reports)
    return f"{work / total:.0%}", _duration((time.time() - since) * (total / work - 1))


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
