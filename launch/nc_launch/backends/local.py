"""The backend that runs packs on this machine."""

import glob
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
from submitit import LocalExecutor

from nc_launch.backends.base import Backend
from nc_launch.task import Task

_MINUTES_PER_YEAR = 525_600


class LocalBackend(Backend):
    """Runs one worker for each visible GPU, which sees no other; without GPUs one worker on all cores."""

    @property
    def packs_at_once(self) -> int:
        """Number of packs that may run at the same time."""
        return max(1, len(_find_visible_gpus()) // self.settings.devices)

    def assign_packs(self, packs: Sequence[int]) -> list[tuple[int, ...]]:
        """Return the packs of each job: it takes one after another, so that no two share its device."""
        workers = min(self.packs_at_once, len(packs))
        return [tuple(packs[first::workers]) for first in range(workers)]

    def start(self, tasks: Sequence[Task], logs: Path, code: Path) -> list[str]:
        """Start a job for each task; see :class:`Backend`."""
        gpus, own = _find_visible_gpus(), self.settings.devices
        # submitit has no parameter for the environment of a job, but starts Python by any command.
        python = f"/usr/bin/env PYTHONPATH={shlex.quote(str(code))} {shlex.quote(sys.executable)}"
        jobs = []
        for number, task in enumerate(tasks):
            executor = LocalExecutor(logs, python=python)
            executor.update_parameters(timeout_min=_MINUTES_PER_YEAR)
            if gpus:
                first = number * own
                visible = gpus[first : first + own]
                executor.update_parameters(gpus_per_node=len(visible), visible_gpus=visible)
            with _detach_from_terminal(logs / "controllers.log"):
                jobs.append(str(executor.submit(task).job_id))
        return jobs

    def find_states(self, jobs: Sequence[str]) -> dict[str, str]:
        """Return a word on each job that runs; a job that is missing has ended."""
        return {job: "running" for job in jobs if _find_process(job) is not None}

    def wait(self, jobs: Sequence[str], seconds: float) -> None:
        """Wait for some time, or less if all jobs end before."""
        psutil.wait_procs([process for job in jobs if (process := _find_process(job)) is not None], seconds)

    def cancel(self, jobs: Sequence[str]) -> None:
        """Ask jobs to save their runs and end."""
        for job in jobs:
            process = _find_process(job)
            if process is not None:
                process.send_signal(signal.SIGTERM)

    def describe_end(self, job: str) -> str:  # noqa: ARG002
        """Say that a job ended; more is not known."""
        return "its process ended"


def _find_process(job: str) -> psutil.Process | None:
    """Return the process that controls a job; None if it has ended, even if another process has its number by now."""
    try:
        process = psutil.Process(int(job))
        is_alive = process.status() != psutil.STATUS_ZOMBIE
        return process if is_alive and "submitit.local._local" in process.cmdline() else None
    except psutil.NoSuchProcess:
        return None


def _find_visible_gpus() -> list[int]:
    """Return the numbers of the GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [int(name) for name in visible.split(",") if name.strip().isdigit()]
    return list(range(len(glob.glob("/dev/nvidia[0-9]*"))))


@contextmanager
def _detach_from_terminal(log: Path) -> Iterator[None]:
    """Have processes that start in this context ignore Ctrl-C and the end of the session, and write to a file.

    The launcher reacts to both signals for them, and its own output can be closed while they go on.
    """
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)}
    outputs = {number: os.dup(number) for number in (1, 2)}
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with log.open("ab") as file:
            for number in outputs:
                os.dup2(file.fileno(), number)
        yield
    finally:
        for number, output in outputs.items():
            os.dup2(output, number)
            os.close(output)
        for number, handler in before.items():
            signal.signal(number, handler)
