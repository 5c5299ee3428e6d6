"""Packs on a SLURM cluster."""

import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor

from nc_launch.backends.base import Backend, LaunchError
from nc_launch.worker import Task


class SlurmBackend(Backend):
    """Job arrays; a job may take several packs, one for each of its GPUs, or one whose particles all of them share."""

    outlives_launcher = True

    @property
    def packs_at_once(self) -> int:
        """See :class:`Backend`."""
        return int(self.settings["array_parallelism"]) * self.tasks_a_job

    @property
    def tasks_a_job(self) -> int:
        """See :class:`Backend`."""
        return 1 if self.shares_packs else max(1, int(self.settings["gpus_per_node"])) * int(self.settings["nodes"])

    def dealt(self, packs: Sequence[int]) -> list[tuple[int, ...]]:
        """See :class:`Backend`; a process has one pack, and the queue the rest."""
        return [tuple(packs[first : first + self.tasks_a_job]) for first in range(0, len(packs), self.tasks_a_job)]

    def start(self, tasks: Sequence[Task], logs: Path) -> list[str]:
        """See :class:`Backend`."""
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
        """See :class:`Backend`; a cluster that does not answer has all of them."""
        told = _output(["squeue", "--me", "--noheader", "--array", "--format=%i|%T|%R"])
        if told is None:
            return dict.fromkeys(jobs, "unknown")
        queue = {}
        for line in told.splitlines():
            job, state, why = line.strip().split("|", 2)
            queue[job] = f"{state.lower()} {why}" if state == "PENDING" else state.lower()
        return {job: queue[job] for job in jobs if job in queue}

    def cancel(self, jobs: Sequence[str]) -> None:
        """See :class:`Backend`."""
        if jobs:
            subprocess.run(["scancel", *jobs], check=False)

    def end_of(self, job: str) -> str:
        """See :class:`Backend`."""
        told = _output(["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", "--format=State"])
        return told.strip().splitlines()[-1].lower() if told and told.strip() else "its job ended"


def _output(command: list[str]) -> str | None:
    """What a command says; None if it fails or takes too long."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None
