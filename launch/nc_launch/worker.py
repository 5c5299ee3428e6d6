"""What a task of a submission executes: its pack, until it is done or has to make room."""

import json
import os
import platform
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit

from nc_sweeps.interruption import InterruptedTraining, Interruption
from nc_sweeps.pack import Pack
from nc_sweeps.publish.companion import following
from nc_sweeps.store import files, manifest

#: Seconds between two reports of a pack.
_REPORT = 1.0
#: Seconds that the first task of a job waits for the others to save their runs.
_SAVING = 120.0
#: States of a SLURM job that has to leave but may come back; any other was ended by somebody.
_MAY_RETURN = {"RUNNING", "PREEMPTED"}


class Report:
    """How far a pack is, in a file for whoever watches; hears the training.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, Any] = {"state": "starting", "runs": 0, "finished": 0, "work": 0, "total": 0}
        self.content |= {"metrics": {}, "since": time.time()}
        node = os.environ.get("SLURMD_NODENAME", platform.node())
        self.content |= {"node": node, "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", "")}
        self._next = 0.0
        self.write()

    def begin(self, runs: int, work: int) -> None:
        """See :class:`nc_sweeps.pack.Listener`."""
        self.content["runs"] = self.content["finished"] + runs
        self.content |= {"state": "running", "total": self.content["work"] + work}
        self.write()

    def advance(self, work: int, metrics: dict[str, list[float]]) -> None:
        """See :class:`nc_sweeps.pack.Listener`."""
        self.content["work"] += work
        if time.monotonic() >= self._next:
            finite = {name: [x for x in values if abs(x) < float("inf")] for name, values in metrics.items()}
            self.content["metrics"] = {name: [min(x), max(x)] for name, x in finite.items() if x}
            self.write()

    def finished(self, runs: int) -> None:
        """See :class:`nc_sweeps.pack.Listener`."""
        self.content["finished"] += runs
        self.write()

    def close(self, state: str) -> None:
        """The process leaves the pack."""
        self.content["state"] = state
        self.write()

    def write(self) -> None:
        """Write the file."""
        files.write(self.path, json.dumps(self.content).encode())
        self._next = time.monotonic() + _REPORT


@dataclass(frozen=True)
class Task:
    """One job of a submission; its processes take the packs in turns, each one after another.

    Args:
        folder: of the submission.
        packs: their numbers.
        is_shared: the processes share the particles of every pack instead.
    """

    folder: Path
    packs: tuple[int, ...]
    is_shared: bool = False

    def __call__(self) -> str:
        """Train.

        Returns:
            ``done``, or ``interrupted`` if the runs are saved and somebody else has to go on with them.
        """
        environment = submitit.JobEnvironment()
        rank = environment.global_rank
        own = self.packs if self.is_shared else self.packs[rank :: environment.num_tasks]
        content = files.read_json(self.folder / "submission.json", {"manifest", "packs", "settings"})
        sweep = self.folder.parent.parent
        names = {name for number in own for name in content["packs"][number]}
        jobs = {job.directory.name: job for job in manifest.jobs_of(sweep, sweep / content["manifest"], names)}
        speaks = rank == 0 or not self.is_shared
        try:
            # Signals that come between two packs count too.
            with following(list(jobs.values()) if speaks else []), Interruption() as interruption:
                for number in own:
                    path = report_path(self.folder, number)
                    report = Report(path if speaks else path.with_suffix(f".{rank}"))
                    about = {"job": environment.job_id, "submission": self.folder.name, "pack": number}
                    pack = Pack(
                        [jobs[name] for name in content["packs"][number]],
                        content["settings"]["runs_per_gpu"],
                        isolate=True,
                        log=environment.paths.stderr,
                        about=about,
                    )
                    _train(pack, report, interruption)
        except InterruptedTraining:
            if rank == 0 and environment.cluster == "slurm":
                self._return(environment.job_id)
            return "interrupted"
        return "done"

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What submitit puts back into the queue when a signal comes before training begins."""
        return submitit.helpers.DelayedSubmission(self)

    def _return(self, job: str) -> None:
        """Put the job back into the queue, with which this process ends; where that cannot be, go on and return."""
        if shutil.which("scontrol") is None:
            print("no scontrol here: the launcher, or nc-sweep resume, submits the rest again", flush=True)
            return
        deadline = time.monotonic() + _SAVING
        while time.monotonic() < deadline and any(self._is_running(number) for number in self.packs):
            time.sleep(0.2)
        state = subprocess.run(
            ["squeue", "--noheader", "--jobs", job, "--format=%T"], capture_output=True, text=True, check=False
        )
        if state.stdout.strip() not in _MAY_RETURN:
            return
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(f"cannot be requeued ({done.stderr.strip()}); nc-sweep resume goes on with the rest", flush=True)
            return
        time.sleep(600)  # until SLURM ends the process

    def _is_running(self, number: int) -> bool:
        path = report_path(self.folder, number)
        return path.exists() and json.loads(path.read_bytes())["state"] in {"starting", "running"}


def _train(pack: Pack, report: Report, interruption: Interruption) -> None:
    """Train a pack, unless the process was told to stop before it."""
    try:
        if interruption.signal is not None:
            raise InterruptedTraining(interruption.signal)
        pack.train(report)
    except InterruptedTraining:
        report.close("interrupted")
        raise
    report.close("done")


def report_path(folder: Path, pack: int) -> Path:
    """Where the report of a pack lies."""
    return folder / f"pack-{pack}.json"
