"""The interface of a backend, which starts jobs and looks after them."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from nc_launch.settings import LaunchSettings
from nc_launch.task import Task
from nc_sweeps.config import RunConfig
from nc_sweeps.errors import UserError


class LaunchError(UserError):
    """Runs that cannot be launched."""


class Backend(ABC):
    """A way to run packs. It knows its jobs by their ids alone, so any process can ask about them.

    Args:
        settings: settings of the launcher.
    """

    #: Whether jobs go on when their launcher is told to end and there is no user to ask.
    outlives_launcher = False

    def __init__(self, settings: LaunchSettings) -> None:
        self.settings = settings

    @property
    @abstractmethod
    def packs_at_once(self) -> int:
        """Number of packs that may run at the same time."""

    @property
    def workers_per_job(self) -> int:
        """Number of processes of one job that take packs of their own."""
        return 1

    @abstractmethod
    def assign_packs(self, packs: Sequence[int]) -> list[tuple[int, ...]]:
        """Return the packs of each job; its processes take them in turns."""

    def check(self, configs: Sequence[RunConfig]) -> None:  # noqa: B027
        """Refuse runs that cannot start, before anything is planned or written; what takes long is left to the jobs.

        Raises:
            UserError: they cannot.
        """

    @abstractmethod
    def start(self, tasks: Sequence[Task], logs: Path, code: Path) -> list[str]:
        """Start a job for each task.

        Args:
            tasks: what the jobs execute.
            logs: folder of their output.
            code: folder of the packages that they import.

        Returns:
            Ids of the jobs.

        Raises:
            LaunchError: the jobs cannot be started.
        """

    @abstractmethod
    def find_states(self, jobs: Sequence[str]) -> dict[str, str]:
        """Return a word on each job that waits or runs; a job that is missing has ended."""

    def wait(self, jobs: Sequence[str], seconds: float) -> None:  # noqa: ARG002
        """Wait for some time, or less where it can be seen at once that all jobs have ended."""
        time.sleep(seconds)

    @abstractmethod
    def cancel(self, jobs: Sequence[str]) -> None:
        """Ask jobs to save their runs and end."""

    @abstractmethod
    def describe_end(self, job: str) -> str:
        """Say how a job ended, as far as is known."""
