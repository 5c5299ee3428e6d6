"""Packs on this machine."""

import glob
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
from submitit import LocalExecutor

from nc_launch.backends.base import Backend
from nc_launch.worker import Task

_MINUTES_A_YEAR = 525_600


class LocalBackend(Backend):
    """One worker for each visible GPU, which sees no other; without GPUs one worker on all cores."""

    @property
    def packs_at_once(self) -> int:
        """See :class:`Backend`."""
        return max(1, len(_visible_gpus()) // int(self.settings["devices"]))

    def dealt(self, packs: Sequence[int]) -> list[tuple[int, ...]]:
        """See :class:`Backend`; a worker takes one pack after another, so that no two share its device."""
        workers = min(self.packs_at_once, len(packs))
        return [tuple(packs[first::workers]) for first in range(workers)]

    def start(self, tasks: Sequence[Task], logs: Path) -> list[str]:
        """See :class:`Backend`."""
        gpus, own = _visible_gpus(), int(self.settings["devices"])
        started = []
        for number, task in enumerate(tasks):
            executor = LocalExecutor(logs)
            executor.update_parameters(timeout_min=_MINUTES_A_YEAR)
            if gpus:
                first = number * own
                visible = gpus[first : first + own]
                executor.update_parameters(gpus_per_node=len(visible), visible_gpus=visible)
            with _apart_from_the_terminal(logs / "controllers.log"):
                started.append(str(executor.submit(task).job_id))
        return started

    def states(self, jobs: Sequence[str]) -> dict[str, str]:
        """See :class:`Backend`."""
        return {job: "running" for job in jobs if self._process(job) is not None}

    def wait(self, jobs: Sequence[str], seconds: float) -> None:
        """See :class:`Backend`."""
        psutil.wait_procs([process for job in jobs if (process := self._process(job)) is not None], seconds)

    def cancel(self, jobs: Sequence[str]) -> None:
        """See :class:`Backend`."""
        for job in jobs:
            process = self._process(job)
            if process is not None:
                process.send_signal(signal.SIGTERM)

    def end_of(self, job: str) -> str:  # noqa: ARG002
        """See :class:`Backend`."""
        return "its process ended"

    @staticmethod
    def _process(job: str) -> psutil.Process | None:
        """A job's controller, unless its number belongs to another process by now."""
        try:
            process = psutil.Process(int(job))
            alive = process.status() != psutil.STATUS_ZOMBIE
            return process if alive and "submitit.local._local" in process.cmdline() else None
        except psutil.NoSuchProcess:
            return None


def _visible_gpus() -> list[int]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [int(name) for name in visible.split(",") if name.strip().isdigit()]
    return list(range(len(glob.glob("/dev/nvidia[0-9]*"))))


@contextmanager
def _apart_from_the_terminal(log: Path) -> Iterator[None]:
    """Processes that start here hear neither Ctrl-C nor the end of the session, for which the launcher speaks, and do
    not hold its output open once it has left.
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
