"""The two places where packs run: this machine and a SLURM cluster. Both start jobs through submitit."""

import glob
import os
import re
import shlex
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from submitit import LocalExecutor, SlurmExecutor

from nc_launch.worker import Task
from nc_sweeps.errors import UserError

_MINUTES_A_YEAR = 525_600


class LaunchError(UserError):
    """Runs that cannot be launched."""


class Place(ABC):
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


class ThisMachine(Place):
    """One worker for each visible GPU, which sees no other; without GPUs one worker on all cores."""

    @property
    def packs_at_once(self) -> int:
        """See :class:`Place`."""
        return max(1, len(_visible_gpus()) // int(self.settings["devices"]))

    def dealt(self, packs: Sequence[int]) -> list[tuple[int, ...]]:
        """See :class:`Place`; a worker takes one pack after another, so that no two share its device."""
        workers = min(self.packs_at_once, len(packs))
        return [tuple(packs[first::workers]) for first in range(workers)]

    def start(self, tasks: Sequence[Task], logs: Path) -> list[str]:
        """See :class:`Place`."""
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
        """See :class:`Place`."""
        return {job: "running" for job in jobs if self._process(job) is not None}

    def wait(self, jobs: Sequence[str], seconds: float) -> None:
        """See :class:`Place`."""
        psutil.wait_procs([process for job in jobs if (process := self._process(job)) is not None], seconds)

    def cancel(self, jobs: Sequence[str]) -> None:
        """See :class:`Place`."""
        for job in jobs:
            process = self._process(job)
            if process is not None:
                process.send_signal(signal.SIGTERM)

    def end_of(self, job: str) -> str:  # noqa: ARG002
        """See :class:`Place`."""
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


class Slurm(Place):
    """Job arrays; a job may take several packs, one for each of its GPUs, or one whose particles all of them share."""

    outlives_launcher = True

    @property
    def packs_at_once(self) -> int:
        """See :class:`Place`."""
        return int(self.settings["array_parallelism"]) * self.tasks_a_job

    @property
    def tasks_a_job(self) -> int:
        """See :class:`Place`."""
        return 1 if self.shares_packs else max(1, int(self.settings["gpus_per_node"])) * int(self.settings["nodes"])

    def dealt(self, packs: Sequence[int]) -> list[tuple[int, ...]]:
        """See :class:`Place`; a process has one pack, and the queue the rest."""
        return [tuple(packs[first : first + self.tasks_a_job]) for first in range(0, len(packs), self.tasks_a_job)]

    def start(self, tasks: Sequence[Task], logs: Path) -> list[str]:
        """See :class:`Place`."""
        started: list[str] = []
        for first in range(0, len(tasks), size := self._largest_array()):
            with self.executor(logs) as executor:
                jobs = [executor.submit(task) for task in tasks[first : first + size]]
            started += [str(job.job_id) for job in jobs]
        return started

    @contextmanager
    def executor(self, logs: Path) -> Iterator[SlurmExecutor]:
        """What is submitted to it becomes one array.

        Raises:
            LaunchError: the cluster refuses.
        """
        try:
            executor = SlurmExecutor(logs, max_num_timeout=10**6, python=self.settings["python"])
            executor.update_parameters(**self._parameters())
            with executor.batch():
                yield executor
        except (ValueError, RuntimeError) as error:
            raise LaunchError(f"hydra/launcher=slurm: {' '.join(str(error).split())}") from error

    def _parameters(self) -> dict[str, Any]:
        own = dict(self.settings)
        tasks = max(1, own["gpus_per_node"])
        if self.shares_packs:
            tasks, own["nodes"] = own["devices"], own["device_nodes"]
            own["gpus_per_node"] = tasks if own["gpus_per_node"] else 0
        parameters = {
            name: own[name]
            for name in ("partition", "account", "qos", "constraint", "nodes", "cpus_per_task", "array_parallelism")
            if own[name] is not None
        }
        parameters |= {"time": own["timeout_min"], "signal_delay_s": own["signal_delay_s"]}
        parameters |= {"job_name": own["job_name"], "ntasks_per_node": tasks}
        if own["mem_gb"] is not None:
            parameters["mem"] = f"{own['mem_gb']}GB"
        srun = list(own["srun_args"])
        if own["gpus_per_node"] > 0:
            kind = f"{own['gpu_type']}:" if own["gpu_type"] else ""
            parameters["gres"] = f"gpu:{kind}{own['gpus_per_node']}"
            srun.append("--gpu-bind=single:1")  # every task sees a GPU of its own
        if own["container_image"] is not None:
            srun.append(f"--container-image={own['container_image']}")
        # Some clusters hand no environment on; jobs run the code that was frozen for them.
        code = [f"export PYTHONPATH={shlex.quote(path)}"] if (path := os.environ.get("PYTHONPATH")) else []
        parameters["setup"] = [*code, *own["setup"]]
        return parameters | {"srun_args": srun, "additional_parameters": dict(own["additional_parameters"])}

    @staticmethod
    def _largest_array() -> int:
        """The cluster's ``MaxArraySize`` caps the index of a task."""
        told = _output(["scontrol", "show", "config"]) or ""
        found = re.search(r"MaxArraySize\s*=\s*(\d+)", told)
        return max(1, int(found[1]) - 1) if found else 1000

    def states(self, jobs: Sequence[str]) -> dict[str, str]:
        """See :class:`Place`; a cluster that does not answer has all of them."""
        told = _output(["squeue", "--me", "--noheader", "--array", "--format=%i|%T|%R"])
        if told is None:
            return dict.fromkeys(jobs, "unknown")
        queue = {}
        for line in told.splitlines():
            job, state, why = line.strip().split("|", 2)
            queue[job] = f"{state.lower()} {why}" if state == "PENDING" else state.lower()
        return {job: queue[job] for job in jobs if job in queue}

    def cancel(self, jobs: Sequence[str]) -> None:
        """See :class:`Place`."""
        if jobs:
            subprocess.run(["scancel", *jobs], check=False)

    def end_of(self, job: str) -> str:
        """See :class:`Place`."""
        told = _output(["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", "--format=State"])
        return told.strip().splitlines()[-1].lower() if told and told.strip() else "its job ended"


def _output(command: list[str]) -> str | None:
    """What a command says; None if it fails or takes too long."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
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


#: By the name in ``hydra/launcher``.
PLACES: dict[str, type[Place]] = {"packed": ThisMachine, "slurm": Slurm}
