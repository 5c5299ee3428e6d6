"""The watch over a submission: it waits until all runs are closed, and starts packs again that ended undone."""

import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console

from nc_launch.jobs import Jobs
from nc_launch.pack_progress import PackProgress
from nc_launch.view import SweepView
from nc_sweeps.report.preload import preload_report
from nc_sweeps.run_spec import RunSpec
from nc_sweeps.store.run_folder import RunFolder
from nc_sweeps.store.runs import RunStore
from nc_sweeps.store.summary import CLOSED, FINAL, Summary
from nc_sweeps.wording import format_count

#: Seconds between two looks at the jobs and the packs, unless all jobs end before.
_INTERVAL = 1.0
#: Number of looks in a row at which a job must be missing to count as ended.
_MISSES = 2
#: Less than any pack can have reached: minus the number of its undone runs, and their steps.
_NOTHING_REACHED = (-(10**9), 0)


class _StopWatching(BaseException):
    """A signal by which the user or the system asks the watch to end."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)


class Watch:
    """Waits for the jobs of a submission.

    Args:
        jobs: the jobs.
        specs: runs of the submission.
        console: where progress is shown.
    """

    def __init__(self, jobs: Jobs, specs: Sequence[RunSpec], console: Console) -> None:
        self._jobs = jobs
        self._submission = jobs.submission
        self._sweep = jobs.submission.sweep
        self._specs = {spec.directory.name: spec for spec in specs}
        self._console = console
        self._misses: Counter[str] = Counter()
        self._finished: Counter[int] = Counter()
        self._reported: set[str] = set()
        self._unbegun: Counter[int] = Counter()
        self._reached: dict[int, tuple[int, int]] = {}

    def wait(self) -> None:
        """Return when every run is closed.

        Raises:
            SystemExit: the user detached or cancelled, here or elsewhere.
        """
        stop = self._wait_for_runs_or_signal()
        if stop is not None:
            self._leave(stop)
        if self._submission.is_cancelled:
            raise SystemExit(f"cancelled; nc-sweep resume {self._sweep} goes on with what is not done")

    def _wait_for_runs_or_signal(self) -> signal.Signals | None:
        """Wait for the runs; return the signal that ended the wait early."""
        before = {number: signal.signal(number, _raise_stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with SweepView(self._console) as view:
                # The jobs load their libraries now, too, and the results are shown at the end.
                preload_report()
                while self._look(view):
                    self._jobs.wait(_INTERVAL)
        except _StopWatching as stop:
            return stop.signal
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return None

    def _look(self, view: SweepView) -> bool:
        """Start packs again whose job ended before they were done, and show the progress.

        Returns:
            Whether there is more to wait for.
        """
        submission = self._submission
        alive = self._jobs.find_states()
        open_packs = {pack for job, packs in submission.jobs.items() if job in alive for pack in packs}
        is_waiting = bool(alive)
        latest = {submission.find_job(pack) for pack in range(len(submission.packs))}
        for job, packs in list(submission.jobs.items()):
            if job in alive:
                self._misses[job] = 0
                continue
            if job not in latest:
                continue
            self._misses[job] += 1
            undone = [pack for pack in packs if pack not in open_packs and self._find_undone_runs(pack)]
            if undone and not submission.is_cancelled:
                is_waiting = True
                if self._misses[job] >= _MISSES:
                    self._misses[job] = 0
                    self._start_again(undone)
        progress = submission.read_all_progress()
        self._report_failures(progress)
        view.show(progress, len(submission.run_names))
        return is_waiting

    def _find_undone_runs(self, pack: int) -> list[RunFolder]:
        """Return the runs of a pack that are not closed, or that failed in an earlier submission."""
        runs = [RunFolder(self._sweep / name) for name in self._submission.packs[pack]]
        return [run for run in runs if not run.is_begun or not self._is_closed(run.read_summary())]

    def _is_closed(self, summary: Summary) -> bool:
        is_own = summary.log is not None and self._submission.folder.name in Path(summary.log).parts
        return summary.status in FINAL or (summary.status in CLOSED and is_own)

    def _start_again(self, packs: Sequence[int]) -> None:
        """Start packs once more: whole if they came further than last time, else in halves."""
        restart = []
        for pack in packs:
            if self._jobs.was_next_in_line(pack):
                restart.append(pack)
                continue
            undone = self._find_undone_runs(pack)
            reached = (-len(undone), sum(_read_step(run) for run in undone))
            progress = self._submission.read_progress(pack)
            end = self._jobs.describe_end(pack)
            if not progress.has_begun and (line := self._jobs.read_last_error(pack)):
                end = f"{end}: {line}"
            if end.startswith("cancelled"):
                self._console.print("somebody cancelled a job: cancelling the others", highlight=False)
                self._jobs.cancel()
                return
            self._unbegun[pack] = 0 if progress.has_begun else self._unbegun[pack] + 1
            is_further = reached > self._reached.get(pack, _NOTHING_REACHED)
            if progress.state == "interrupted" or is_further or self._unbegun[pack] == 1:
                restart.append(pack)
            elif not progress.has_begun:  # no run is to blame
                self._close_as_failed(undone, pack, f"{end}, and no run began when tried again")
                continue
            elif len(undone) > 1:
                halves = self._submission.split(pack)
                self._reached |= dict.fromkeys(halves, _NOTHING_REACHED)
                restart += halves
            else:
                self._close_as_failed(undone, pack, f"{end}, and it got no further when tried again")
                continue
            self._reached[pack] = reached
            self._console.print(
                f"pack {pack}: {end}; going on with {format_count(len(undone), 'run')}", highlight=False
            )
        if restart:
            self._jobs.start(restart)

    def _close_as_failed(self, runs: Sequence[RunFolder], pack: int, reason: str) -> None:
        for run in runs:
            spec = self._specs[run.name]
            store = RunStore(spec.directory, spec.config, spec.overrides, self._jobs.find_log(pack))
            store.resume()
            store.finish("failed", reason)

    def _report_failures(self, packs: Sequence[PackProgress]) -> None:
        """Print the runs that diverged or failed since the last call, with their reasons."""
        for number, pack in enumerate(packs):
            if pack.finished == self._finished[number]:
                continue
            self._finished[number] = pack.finished
            for name in self._submission.packs[number]:
                run = RunFolder(self._sweep / name)
                if name in self._reported or not run.is_begun:
                    continue
                summary = run.read_summary()
                if summary.status in {"diverged", "failed"}:
                    self._reported.add(name)
                    self._console.print(f"{summary.status}: {name}: {summary.reason}", highlight=False)

    def _leave(self, stop: signal.Signals) -> NoReturn:
        """Detach or cancel, as the user chooses; without a user, jobs on this machine end and those of a cluster stay.

        Raises:
            SystemExit: always.
        """
        choice = "d" if self._jobs.backend.outlives_launcher else "c"
        if stop is signal.SIGINT and sys.stdin.isatty():
            self._console.print(
                "\\[d]etach and leave the jobs to themselves, or \\[c]ancel them? ", end="", highlight=False
            )
            choice = (input() or choice).strip().lower()[:1]
        if choice == "c":
            self._jobs.cancel()
            while self._jobs.find_states():
                time.sleep(0.2)
            raise SystemExit("nc-train: interrupted; the same command, or nc-sweep resume, goes on from here")
        raise SystemExit(explain_detachment(self._sweep))


def explain_detachment(sweep: Path) -> str:
    """Say what the user can do about a sweep that goes on by itself."""
    return f"nc-train: detached; nc-sweep status {sweep} shows how it goes, nc-sweep attach {sweep} waits for it"


def _read_step(run: RunFolder) -> int:
    """Return the last measured step of a run; 0 before it begins."""
    return (run.read_summary().progress.step or 0) if run.is_begun else 0


def _raise_stop(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    raise _StopWatching(number)
