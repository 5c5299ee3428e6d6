"""The jobs of a submission: started, asked about and ended through its backend."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from nc_launch.backends import make_backend
from nc_launch.frozen_code import freeze_code
from nc_launch.submission import Origin, Submission
from nc_launch.task import Task
from nc_sweeps.run_spec import RunSpec

#: Lines with which SLURM follows the one that says what went wrong.
_SAYS_NO_MORE = re.compile(
    r"\s*$|srun: (error: .*(Exited with exit code|Terminated|Killed)|(launch/slurm|Job step aborted|Terminating))|"
    r"slurmstepd: error: \*\*\*|Try \"srun --help\""
)


class Jobs:
    """The jobs of a submission.

    Args:
        submission: the submission.
    """

    def __init__(self, submission: Submission) -> None:
        self.submission = submission
        self.backend = make_backend(submission.origin)

    def start(self, packs: Sequence[int]) -> None:
        """Start jobs for packs.

        Raises:
            LaunchError: the jobs cannot be started.
        """
        submission = self.submission
        tasks = [Task(submission.folder, own) for own in self.backend.assign_packs(packs)]
        for pack in packs:
            submission.progress_path(pack).unlink(missing_ok=True)
        jobs = self.backend.start(tasks, submission.logs, submission.code)
        submission.jobs |= {job: list(task.packs) for job, task in zip(jobs, tasks, strict=True)}
        submission.write()

    def find_states(self) -> dict[str, str]:
        """Return the state of each job that waits or runs."""
        return self.backend.find_states(list(self.submission.jobs))

    def wait(self, seconds: float) -> None:
        """Wait for some time, or less where the backend sees at once that all jobs have ended."""
        self.backend.wait(list(self.submission.jobs), seconds)

    def cancel(self) -> None:
        """Have the jobs save their runs and end for good."""
        self.submission.mark_cancelled()
        self.backend.cancel(list(self.submission.jobs))

    def describe_end(self, pack: int) -> str:
        """Say how the latest job of a pack ended."""
        return self.backend.describe_end(self.submission.find_job(pack))

    def find_log(self, pack: int) -> Path:
        """Return the log of the latest job of a pack."""
        job = self.submission.find_job(pack)
        rank = self.submission.jobs[job].index(pack) % self.backend.workers_per_job
        # What is wrong with a job as a whole is in the log of its first process.
        logs = [self.submission.logs / f"{job}_{number}_log.err" for number in (rank, 0)]
        return next((log for log in logs if log.exists() and log.stat().st_size), logs[0])

    def read_last_error(self, pack: int) -> str:
        """Return the last line of the log of a pack's latest job that says what went wrong; empty if there is none."""
        try:
            lines = self.find_log(pack).read_text(errors="replace").splitlines()
        except OSError:
            return ""
        says_more = (line.strip() for line in reversed(lines) if not _SAYS_NO_MORE.match(line))
        return next(says_more, "")

    def was_next_in_line(self, pack: int) -> bool:
        """Whether the latest job of a pack ended at work on a pack before it."""
        position = self.submission.jobs[self.submission.find_job(pack)].index(pack)
        return position >= self.backend.workers_per_job and not self.submission.read_progress(pack).has_begun


def submit(origin: Origin, manifest: Path, packs: Sequence[Sequence[RunSpec]]) -> Jobs:
    """Freeze the code and start jobs for packs.

    Args:
        origin: backend and settings.
        manifest: file of the manifest that holds the runs.
        packs: runs of each pack.

    Raises:
        LaunchError: the jobs cannot be started. Nothing is left behind, and the file of the manifest is gone.
    """
    submission = Submission.create(origin, manifest, packs)
    try:
        submission.untracked = freeze_code(submission.code)
        submission.write()
        jobs = Jobs(submission)
        jobs.start(range(len(packs)))
    except BaseException:
        shutil.rmtree(submission.folder, ignore_errors=True)
        manifest.unlink()
        for folder in (submission.folder.parent, manifest.parent, submission.sweep):
            if not any(folder.iterdir()):
                folder.rmdir()
        raise
    return jobs
