"""The task of a job: it trains packs of a submission until they are done or the job has to make room."""

import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import submitit

from nc_launch.pack_progress import ProgressWriter
from nc_launch.submission import Submission
from nc_sweeps.interruption import InterruptedTraining, Interruption
from nc_sweeps.pack import Pack, skip_garbage_collection_at_exit
from nc_sweeps.process import prepare_process
from nc_sweeps.publish.companion import publish_meanwhile
from nc_sweeps.store.sweep_folder import SweepFolder

#: Seconds that an interrupted process of a job waits for the others to save their runs.
_SAVING = 120.0
#: States of an interrupted SLURM job that may be requeued; in any other state somebody ended it.
_REQUEUABLE = {"RUNNING", "PREEMPTED"}


@dataclass(frozen=True)
class Task:
    """Packs of a submission, as one job trains them.

    Args:
        folder: folder of the submission.
        packs: numbers of the packs. The processes of the job deal them out and train one after another, unless the
            settings have all processes share the particles of every pack.
    """

    folder: Path
    packs: tuple[int, ...]

    def __call__(self) -> str:
        """Train the packs of this process.

        Returns:
            ``done``, or ``interrupted`` if the runs are saved and another job has to go on with them.
        """
        prepare_process()
        skip_garbage_collection_at_exit()
        environment = submitit.JobEnvironment()
        rank = environment.global_rank
        submission = Submission.read(self.folder)
        is_shared = submission.origin.settings.shares_packs
        own = self.packs if is_shared else self.packs[rank :: environment.num_tasks]
        names = {name for number in own for name in submission.packs[number]}
        read = SweepFolder(submission.sweep).read_specs(submission.manifest, names)
        specs = {spec.directory.name: spec for spec in read}
        is_leader = rank == 0 or not is_shared
        try:
            # A signal that comes between two packs counts too.
            with publish_meanwhile(list(specs.values()) if is_leader else []), Interruption() as interruption:
                for number in own:
                    path = submission.progress_path(number)
                    writer = ProgressWriter(path if is_leader else path.with_suffix(f".{rank}"))
                    pack = Pack(
                        [specs[name] for name in submission.packs[number]],
                        submission.origin.settings.runs_per_gpu,
                        isolate=True,
                        log=environment.paths.stderr,
                        about={"job": environment.job_id, "submission": self.folder.name, "pack": number},
                    )
                    _train(pack, writer, interruption)
        except InterruptedTraining:
            if is_leader and environment.cluster == "slurm" and self._is_first_interrupted(submission, own):
                _requeue(environment.job_id)
            return "interrupted"
        return "done"

    def _is_first_interrupted(self, submission: Submission, own: tuple[int, ...]) -> bool:
        """Wait until the other processes of the job have saved their runs, too; return whether this one has the first
        pack that was interrupted. Those before it may have finished all of theirs.
        """
        deadline = time.monotonic() + _SAVING
        while time.monotonic() < deadline and any(submission.read_progress(pack).is_at_work for pack in self.packs):
            time.sleep(0.2)
        interrupted = (pack for pack in self.packs if submission.read_progress(pack).state == "interrupted")
        return next(interrupted) in own

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Return what submitit puts back into the queue when SIGUSR2 comes before training begins."""
        return submitit.helpers.DelayedSubmission(self)


def _train(pack: Pack, writer: ProgressWriter, interruption: Interruption) -> None:
    """Train a pack, unless the process was told to stop before it."""
    try:
        if interruption.signal is not None:
            raise InterruptedTraining(interruption.signal)
        pack.train(writer)
    except InterruptedTraining:
        writer.close("interrupted")
        raise
    writer.close("done")


def _requeue(job: str) -> None:
    """Put this job back into the queue, which ends this process; return where that is not possible."""
    if shutil.which("scontrol") is None:
        print("no scontrol here: the launcher, or nc-sweep resume, submits the rest again", flush=True)
        return
    squeue = ["squeue", "--noheader", "--jobs", job, "--format=%T"]
    state = subprocess.run(squeue, capture_output=True, text=True, check=False).stdout.strip()
    if state not in _REQUEUABLE:
        return
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(f"cannot be requeued ({done.stderr.strip()}); nc-sweep resume goes on with the rest", flush=True)
        return
    time.sleep(600)  # until SLURM ends the process
