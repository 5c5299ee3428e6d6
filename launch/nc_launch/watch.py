"""Watches a submission until all its runs are closed, and sends packs out again that came back undone."""

import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from rich.console import Console

from nc_launch.submission import Submission
from nc_launch.view import SweepView
from nc_sweeps.report.preload import preload_report
from nc_sweeps.run_spec import RunSpec
from nc_sweeps.store import manifest
from nc_sweeps.store.runs import FINAL, RunStore, read_summary
from nc_sweeps.wording import format_count

#: States in which nobody will go on with a run by himself.
CLOSED = (*FINAL, "failed")
#: Seconds between two looks at the queue and the reports, unless all jobs end before.
_LOOK = 1.0
#: Looks at the queue at which a job must be missing before it is believed to have ended.
_MISSES = 2


#: Behind every place that a pack can have reached: minus its undone runs, and their steps.
_NOWHERE = (-(10**9), 0)


class _Stop(BaseException):
    """The user, or the system, wants the watcher to end."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)


@dataclass
class Watch:
    """Waits for a submission.

    Args:
        submission: what to wait for.
        jobs: its runs.
        console: where progress is shown.
    """

    submission: Submission
    jobs: list[RunSpec]
    console: Console
    _missed: Counter[str] = field(default_factory=Counter)
    _finished: Counter[int] = field(default_factory=Counter)
    _told: set[str] = field(default_factory=set)
    _reached: dict[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def sweep(self) -> Path:
        """Folder of the runs."""
        return self.submission.folder.parent.parent

    def wait(self) -> None:
        """Return when every run is closed, or the submission was cancelled.

        Raises:
            SystemExit: the user detached or cancelled.
        """
        stopped = self._wait()
        if stopped is not None:
            self._leave(stopped)
        if self.submission.is_cancelled:
            raise SystemExit(f"cancelled; nc-sweep resume {self.sweep} goes on with what is not done")

    def _wait(self) -> signal.Signals | None:
        """Wait; return the signal that ended it early."""
        before = {number: signal.signal(number, _raise_stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with SweepView(self.console) as view:
                # The workers, too, load their libraries now, and whoever waits is shown the results in the end.
                preload_report()
                while self._look(view):
                    self.submission.place.wait(list(self.submission.jobs), _LOOK)
        except _Stop as stop:
            return stop.signal
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return None

    def _look(self, view: SweepView) -> bool:
        """Attend to what ended, and show how it goes; return whether anything is still to come."""
        submission = self.submission
        alive = submission.place.states(list(submission.jobs))
        open_packs = {pack for job, packs in submission.jobs.items() if job in alive for pack in packs}
        waiting = bool(alive)
        latest = {submission.job_of(pack) for pack in range(len(submission.packs))}
        for job, packs in list(submission.jobs.items()):
            if job in alive:
                self._missed[job] = 0
                continue
            if job not in latest:
                continue
            self._missed[job] += 1
            undone = [pack for pack in packs if pack not in open_packs and self._undone(pack)]
            if undone and not submission.is_cancelled:
                waiting = True
                if self._missed[job] >= _MISSES:
                    self._missed[job] = 0
                    self._again(undone)
        reports = [submission.report(pack) for pack in range(len(submission.packs))]
        self._tell_failures(reports)
        view.show(reports, sum(map(len, submission.packs)))
        return waiting

    def _undone(self, pack: int) -> list[str]:
        return [name for name in self.submission.packs[pack] if self._status(name) not in CLOSED]

    def _status(self, run: str) -> str | None:
        directory = self.sweep / run
        return read_summary(directory)["status"] if (directory / "summary.json").exists() else None

    def _again(self, packs: list[int]) -> None:
        """Send packs out once more: as they are if they came further than last time, else in halves."""
        restart = []
        for pack in packs:
            undone = self._undone(pack)
            if self._was_in_line(pack):
                restart.append(pack)
                continue
            reached = (-len(undone), sum(self._step(name) for name in undone))
            ended = self.submission.place.end_of(self.submission.job_of(pack))
            if ended.startswith("cancelled"):
                self.console.print("somebody cancelled a job: cancelling the others", highlight=False)
                self.submission.cancel()
                return
            if self.submission.report(pack).get("state") == "interrupted" or reached > self._reached.get(
                pack, _NOWHERE
            ):
                restart.append(pack)
            elif len(undone) > 1:
                halves = self.submission.split(pack)
                self._reached |= dict.fromkeys(halves, _NOWHERE)
                restart += halves
            else:
                self._fail(undone[0], pack, ended)
                continue
            self._reached[pack] = reached
            self.console.print(
                f"pack {pack}: {ended}; going on with {format_count(len(undone), 'run')}", highlight=False
            )
        if restart:
            self.submission.start(restart)

    def _was_in_line(self, pack: int) -> bool:
        """Whether its job ended at work on a pack before it."""
        place = self.submission.jobs[self.submission.job_of(pack)].index(pack)
        return place >= self.submission.place.tasks_a_job and not self.submission.report(pack)

    def _step(self, run: str) -> int:
        directory = self.sweep / run
        return (read_summary(directory)["progress"]["step"] or 0) if (directory / "summary.json").exists() else 0

    def _fail(self, run: str, pack: int, ended: str) -> None:
        job = next(job for job in self.jobs if job.directory.name == run)
        store = RunStore(job.directory, job.config, job.overrides, self.submission.log_of(pack))
        store.resume()
        store.finish("failed", f"{ended}, and it got no further when tried again")

    def _tell_failures(self, reports: Sequence[dict[str, Any]]) -> None:
        for pack, report in enumerate(reports):
            if report.get("finished", 0) == self._finished[pack]:
                continue
            self._finished[pack] = report.get("finished", 0)
            for name in self.submission.packs[pack]:
                if name not in self._told and self._status(name) in {"diverged", "failed"}:
                    self._told.add(name)
                    summary = read_summary(self.sweep / name)
                    self.console.print(f"{summary['status']}: {name}: {summary['reason']}", highlight=False)

    def _leave(self, by: signal.Signals) -> NoReturn:
        """Detach or cancel, as the user wishes; nobody to ask: this machine's jobs end, a cluster's stay."""
        choice = "d" if self.submission.place.outlives_launcher else "c"
        if by is signal.SIGINT and sys.stdin.isatty():
            self.console.print(
                "\\[d]etach and leave the jobs to themselves, or \\[c]ancel them? ", end="", highlight=False
            )
            choice = (input() or choice).strip().lower()[:1]
        if choice == "c":
            self.submission.cancel()
            while self.submission.place.states(list(self.submission.jobs)):
                time.sleep(0.2)
            raise SystemExit("nc-train: interrupted; the same command, or nc-sweep resume, goes on from here")
        raise SystemExit(detached(self.sweep))


def detached(sweep: Path) -> str:
    """What to do about a sweep that goes on by itself."""
    return f"nc-train: detached; nc-sweep status {sweep} shows how it goes, nc-sweep attach {sweep} waits for it"


def watch(submission: Submission, console: Console) -> list[RunSpec]:
    """Wait for a submission.

    Returns:
        Its runs.
    """
    sweep = submission.folder.parent.parent
    names = {name for pack in submission.packs for name in pack}
    jobs = manifest.jobs_of(sweep, names=names)
    Watch(submission, jobs, console).wait()
    return jobs


def _raise_stop(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    raise _Stop(number)
