"""What a backend is: where packs run."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nc_launch.worker import Task
from nc_sweeps.errors import UserError


class LaunchError(UserError):
    """Runs that cannot be launched."""


class Backend(ABC):
    """Starts jobs and knows about them by their ids alone, from any process.

    Args:
        settings: the keys of ``hydra.launcher``.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    @property
    @abstractmethod
    def packs_at_once(self) -> int:
        """Packs that may run at the same time."""

    @abstractmethod
    def start(self, tasks: Sequence[Task], logs: Path) -> list[str]:
        """Start jobs.

        Args:
            tasks: one a job.
            logs: folder of their output.

        Returns:
            Their ids.

        Raises:
            LaunchError: they cannot be started.
        """

    @abstractmethod
    def states(self, jobs: Sequence[str]) -> dict[str, str]:
        """Jobs that wait or run, with a word on each. What is missing has ended."""

    def wait(self, jobs: Sequence[str], seconds: float) -> None:  # noqa: ARG002
        """Let so much time pass, or less: until all jobs have ended, where that can be seen at once."""
        time.sleep(seconds)

    @abstractmethod
    def cancel(self, jobs: Sequence[str]) -> None:
        """Ask jobs to save their runs and end."""

    @abstractmethod
    def end_of(self, job: str) -> str:
        """How a job ended, as far as is known."""

    @property
    def tasks_a_job(self) -> int:
        """Processes of one job that take packs of their own."""
        return 1

    @abstractmethod
    def dealt(self, packs: Sequence[int]) -> list[tuple[int, ...]]:
        """Packs of each job; its processes take them in turns."""

    @property
    def shares_packs(self) -> bool:
        """Whether several processes of a job share the particles of one pack."""
        return int(self.settings["devices"]) * int(self.settings["device_nodes"]) > 1

    #: Whether jobs are meant to go on when their launcher is told to end and nobody can be asked.
    outlives_launcher = False
