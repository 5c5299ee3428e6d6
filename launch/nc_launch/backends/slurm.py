"""The backend that runs packs on a SLURM cluster."""

import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor

from nc_launch.backends.base import Backend, LaunchError
from nc_launch.settings import SlurmSettings
from nc_launch.task import Task


class SlurmBackend(Backend):
    """Runs packs in job arrays; a job takes a pack for each of its GPUs, or one whose particles all of them share.

    Args:
        settings: settings of the launcher.
    """

    outlives_launcher = True
    settings: SlurmSettings

    @property
    def packs_at_once(self) -> int:
        """Number of packs that may run at the same time."""
        return self.settings.array_parallelism * self.workers_per_job

    @property
    def workers_per_job(self) -> int:
        """Number of processes of one job that take packs of their own."""
        return 1 if self.settings.shares_packs else max(1, self.settings.gpus_per_node) * self.settings.nodes

    def assign_packs(self, packs: Sequence[int]) -> list[tuple[int, ...]]:
        """Return the packs of each job: one for each of its workers; the rest waits in the queue."""
        size = self.workers_per_job
        return [tuple(packs[first : first + size]) for first in range(0, len(packs), size)]

    def start(self, tasks: Sequence[Task], logs: Path, code: Path) -> list[str]:
        """Start a job for each task, in as few arrays as the cluster allows; see :class:`Backend`."""
        started: list[str] = []
        for first in range(0, len(tasks), size := _find_largest_array()):
            with self.open_array(logs, str(code)) as executor:
                jobs = [executor.submit(task) for task in tasks[first : first + size]]
            started += [str(job.job_id) for job in jobs]
        return started

    @contextmanager
    def open_array(self, logs: Path, python_path: str | None) -> Iterator[SlurmExecutor]:
        """Give an executor; all that is submitted to it in this context becomes one job array.

        Args:
            logs: folder of the output of the jobs.
            python_path: ``PYTHONPATH`` of the jobs; None: what the cluster gives them.

        Raises:
            LaunchError: the cluster refuses.
        """
        try:
            executor = SlurmExecutor(logs, max_num_timeout=10**6, python=self.settings.python)
            executor.update_parameters(**self._make_parameters(python_path))
            with executor.batch():
                yield executor
        except (ValueError, RuntimeError) as error:
            raise LaunchError(f"hydra/launcher=slurm: {' '.join(str(error).split())}") from error

    def _make_parameters(self, python_path: str | None) -> dict[str, Any]:
        """Return the parameters of submitit, from which it writes those of sbatch and srun."""
        own = self.settings
        nodes, gpus, processes = own.nodes, own.gpus_per_node, max(1, own.gpus_per_node)
        if own.shares_packs:
            nodes, processes = own.device_nodes, own.devices
            gpus = processes if gpus else 0
        parameters: dict[str, Any] = {
            name: value
            for name in ("partition", "account", "qos", "constraint")
            if (value := getattr(own, name)) is not None
        }
        parameters |= {"nodes": nodes, "ntasks_per_node": processes, "cpus_per_task": own.cpus_per_task}
        parameters |= {"time": own.timeout_min, "signal_delay_s": own.signal_delay_s}
        parameters |= {"job_name": own.job_name, "array_parallelism": own.array_parallelism}
        if own.mem_gb is not None:
            parameters["mem"] = f"{own.mem_gb}GB"
        srun_args = list(own.srun_args)
        if gpus > 0:
            gpu_type = f"{own.gpu_type}:" if own.gpu_type else ""
            parameters["gres"] = f"gpu:{gpu_type}{gpus}"
            srun_args.append("--gpu-bind=single:1")  # every process sees one GPU, its own
        if own.container_image is not None:
            srun_args.append(f"--container-image={own.container_image}")
        # Some clusters do not pass the environment of sbatch on to jobs.
        path = [f"export PYTHONPATH={shlex.quote(python_path)}"] if python_path else []
        parameters |= {"srun_args": srun_args, "setup": [*path, *own.setup]}
        return parameters | {"additional_parameters": dict(own.additional_parameters)}

    def find_states(self, jobs: Sequence[str]) -> dict[str, str]:
        """Return a word on each job that waits or runs; all jobs are ``unknown`` if the cluster does not answer."""
        output = _read_output(["squeue", "--me", "--noheader", "--array", "--format=%i|%T|%R"])
        if output is None:
            return dict.fromkeys(jobs, "unknown")
        queue = {}
        for line in output.splitlines():
            job, state, why = line.strip().split("|", 2)
            queue[job] = f"{state.lower()} {why}" if state == "PENDING" else state.lower()
        return {job: queue[job] for job in jobs if job in queue}

    def cancel(self, jobs: Sequence[str]) -> None:
        """Ask jobs to save their runs and end."""
        if jobs:
            subprocess.run(["scancel", *jobs], check=False)

    def describe_end(self, job: str) -> str:
        """Say how a job ended, as far as accounting knows."""
        output = _read_output(
            ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", "--format=State"]
        )
        return output.strip().splitlines()[-1].lower() if output and output.strip() else "its job ended"


def _find_largest_array() -> int:
    """Return how many jobs one array may have; their indices stay below the cluster's ``MaxArraySize``."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", _read_output(["scontrol", "show", "config"]) or "")
    return max(1, int(found[1]) - 1) if found else 1000


def _read_output(command: list[str]) -> str | None:
    """Return the output of a command; None if it fails or takes too long."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None
