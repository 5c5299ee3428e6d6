"""The backend that runs packs on this machine."""

import glob
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

import psutil
from submitit import LocalExecutor

from nc_launch.backends.base import Backend
from nc_launch.task import Task
from nc_sweeps.config import RunConfig
from nc_sweeps.data import check_presence
from nc_sweeps.training.processes import check_accelerator

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

    def check(self, configs: Sequence[RunConfig]) -> None:
        """Refuse runs whose data or whose GPU this machine has not; see :class:`Backend`."""
        for config in configs:
            check_accelerator(config.compute)
            check_presence(config.dataset)

    def start(self, tasks: Sequence[Task], logs: Path, code: Path) -> list[str]:
        """Start a job for each task; see :class:`Backend`."""
        gpus, own = _find_visible_gpus(), self.settings.devices
        jobs = []
        for number, task in enumerate(tasks):
            variables = [f"PYTHONPATH={code}"]
            if gpus:
                variables.append(f"CUDA_VISIBLE_DEVICES={','.join(gpus[number * own : (number + 1) * own])}")
            # submitit has no parameter for the environment of a job, but starts Python by any command.
            executor = LocalExecutor(logs, python=shlex.join(["/usr/bin/env", *variables, sys.executable]))
            executor.update_parameters(timeout_min=_MINUTES_PER_YEAR)
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


def _find_visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them: by number, or by the name of a
    GPU or of a part of one (``GPU-…``, ``MIG-…``). As for CUDA, a name of no device ends the list.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(number) for number in range(len(glob.glob("/dev/nvidia[0-9]*")))]
    is_device = re.compile(r"\d+|(GPU|MIG)-.+").fullmatch
    return list(dict.fromkeys(takewhile(is_device, (name.strip() for name in visible.split(",")))))


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
