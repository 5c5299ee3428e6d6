"""The backend that runs packs on a SLURM cluster."""

import math
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor

from nc_launch.backends.base import Backend, LaunchError
from nc_launch.settings import SlurmSettings
from nc_launch.task import Task
from nc_sweeps.config import RunConfig


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

    def check(self, configs: Sequence[RunConfig]) -> None:  # noqa: ARG002
        """Refuse runs where there is no cluster to ask; see :class:`Backend`."""
        if shutil.which("sbatch") is None:
            raise LaunchError("hydra/launcher=slurm: there is no sbatch here; launch from a login node of a cluster")
        with suppress(OSError, subprocess.TimeoutExpired):  # a controller that answers late is asked again by sbatch
            asked = subprocess.run(["sinfo", "--noheader"], capture_output=True, text=True, check=False, timeout=2)
            if asked.returncode:
                reason = next(iter(asked.stderr.strip().splitlines()[-1:]), "sinfo fails")
                raise LaunchError(f"hydra/launcher=slurm: no controller answers ({reason})")

    def start(self, tasks: Sequence[Task], logs: Path, code: Path) -> list[str]:
        """Start a job for each task, in as few arrays as the cluster allows; see :class:`Backend`."""
        started: list[str] = []
        try:
            for first in range(0, len(tasks), size := _find_largest_array()):
                with self.open_array(logs, str(code)) as executor:
                    jobs = [executor.submit(task) for task in tasks[first : first + size]]
                started += [str(job.job_id) for job in jobs]
        except LaunchError:  # a limit of the queue, perhaps: the arrays before it have no launcher any more
            self.cancel(started)
            raise
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
        if found := re.search(r"[%\\\n]", str(logs)):
            raise LaunchError(
                f"hydra/launcher=slurm: {logs}: sbatch cannot write to a folder with {found[0]!r} in its name"
            )
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
            parameters["mem"] = f"{math.ceil(own.mem_gb * 1024)}M"
        # Not every srun takes the cores of a process from sbatch, and some sites have sbatch and srun pass on nothing.
        srun_args = [f"--cpus-per-task={own.cpus_per_task}", "--export=ALL"]
        if gpus > 0:
            gpu_type = f"{own.gpu_type}:" if own.gpu_type else ""
            parameters["gres"] = f"gpu:{gpu_type}{gpus}"
            srun_args.append("--gpu-bind=single:1")  # every process sees one GPU, its own
        if own.container_image is not None:
            srun_args.append(f"--container-image={own.container_image}")
        # Some clusters do not pass the environment of sbatch on to jobs.
        path = [f"export PYTHONPATH={shlex.quote(python_path)}"] if python_path else []
        parameters |= {"srun_args": [*srun_args, *own.srun_args], "setup": [*path, *own.setup]}
        # submitit has a wckey of its own, which clusters that check them refuse.
        return parameters | {"wckey": None, "additional_parameters": _convert_flags(own.additional_parameters)}

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
        """Say how a job ended, as far as accounting or, where there is none, the controller knows."""
        output = _read_output(
            ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", "--format=State"]
        )
        if output and output.strip():
            return output.strip().splitlines()[-1].lower()
        found = re.search(r"JobState=(\w+)", _read_output(["scontrol", "show", "job", job]) or "")
        return found[1].lower() if found else "its job ended"


def _convert_flags(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return parameters of sbatch as submitit has them: ``True`` for a flag, and none that is off."""
    kept = {name: value for name, value in parameters.items() if value is not None and value is not False}
    # submitit writes its own names with an underscore, and of two equal parameters sbatch takes the last.
    return {name if name == "open-mode" else name.replace("-", "_"): value for name, value in kept.items()}


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
