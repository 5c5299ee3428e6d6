"""A submission: packs that were handed to a place, with all that they need to run, in a folder of the sweep.

====================  ================================================================================================
``submission.json``   settings of the launcher, the packs, the jobs that run them
``code/``             the source as it was, and its commit: later edits do not reach jobs that wait in a queue
``logs/``             what submitit keeps of the jobs, and their output
``pack-<k>.json``     how far a pack is
``cancelled``         somebody wanted no more of it
====================  ================================================================================================
"""

import importlib.util
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nc_launch.backends import BACKENDS, Backend
from nc_launch.worker import Task, report_path
from nc_sweeps.run_spec import RunSpec
from nc_sweeps.store import files
from nc_sweeps.store.runs import COMMIT_FILE, environment

_FOLDER = ".launch"
#: What workers import.
_PACKAGES = ("nc_sweeps", "nc_launch")


class Submission:
    """Packs in the hands of a place.

    Args:
        folder: of the submission.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._content = files.read_json(folder / "submission.json", {"place", "settings", "manifest", "packs", "jobs"})
        self.place: Backend = BACKENDS[self._content["place"]](self._content["settings"])

    @classmethod
    def create(
        cls, place: str, settings: dict[str, Any], manifest: Path, packs: Sequence[Sequence[RunSpec]]
    ) -> "Submission":
        """Freeze code and configs and start the jobs.

        Args:
            place: ``packed`` or ``slurm``.
            settings: the keys of ``hydra.launcher``.
            manifest: file that holds the runs.
            packs: runs of each worker.

        Raises:
            LaunchError: the jobs cannot be started. Nothing is left behind.
        """
        sweep = manifest.parent.parent
        folder = sweep / _FOLDER / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{uuid.uuid4().hex[:6]}"
        folder.mkdir(parents=True)
        content = {
            "place": place,
            "settings": settings,
            "manifest": str(manifest.relative_to(sweep)),
            "packs": [[job.directory.name for job in pack] for pack in packs],
            "jobs": {},
            "untracked": _freeze_code(folder / "code"),
        }
        files.write(folder / "submission.json", json.dumps(content).encode())
        submission = cls(folder)
        try:
            submission.start(range(len(packs)))
        except BaseException:
            shutil.rmtree(folder)
            raise
        return submission

    def start(self, packs: Sequence[int]) -> None:
        """Start jobs for packs."""
        tasks = [Task(self.folder, own, self.place.shares_packs) for own in self.place.dealt(packs)]
        for pack in packs:
            report_path(self.folder, pack).unlink(missing_ok=True)
        with _environment(PYTHONPATH=str(self.folder / "code")):
            jobs = self.place.start(tasks, self.folder / "logs")
        self._content["jobs"] |= {job: list(task.packs) for job, task in zip(jobs, tasks, strict=True)}
        self._write()

    def split(self, pack: int) -> list[int]:
        """Make two packs of one.

        Returns:
            Their numbers.
        """
        names = self._content["packs"][pack]
        middle = len(names) // 2
        self._content["packs"][pack] = names[:middle]
        self._content["packs"].append(names[middle:])
        self._write()
        return [pack, len(self._content["packs"]) - 1]

    def cancel(self) -> None:
        """Have the jobs save their runs and end, and never come back."""
        (self.folder / "cancelled").touch()
        self.place.cancel(list(self.jobs))

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody wanted no more of it."""
        return (self.folder / "cancelled").exists()

    @property
    def packs(self) -> list[list[str]]:
        """Names of the folders of the runs in each pack."""
        return list(self._content["packs"])

    @property
    def jobs(self) -> dict[str, list[int]]:
        """Packs of each job, in the order in which the jobs were started."""
        return dict(self._content["jobs"])

    @property
    def origin(self) -> tuple[str, dict[str, Any]]:
        """Name of the place, and the settings of the launcher."""
        return self._content["place"], dict(self._content["settings"])

    @property
    def untracked(self) -> list[str]:
        """Files of the frozen code that are in no commit."""
        return list(self._content["untracked"])

    def job_of(self, pack: int) -> str:
        """The latest job of a pack."""
        return [job for job, packs in self.jobs.items() if pack in packs][-1]

    def log_of(self, pack: int) -> Path:
        """Where the latest job of a pack writes."""
        job = self.job_of(pack)
        rank = self.jobs[job].index(pack) % self.place.tasks_a_job
        return self.folder / "logs" / f"{job}_{rank}_log.err"

    def report(self, pack: int) -> dict[str, Any]:
        """How far a pack is; empty before it begins."""
        path = report_path(self.folder, pack)
        return files.read_json(path, {"state"}) if path.exists() else {}

    def _write(self) -> None:
        files.write(self.folder / "submission.json", json.dumps(self._content).encode())


def submissions(sweep: Path) -> list[Submission]:
    """All submissions of a sweep in the order of time."""
    return [Submission(path.parent) for path in sorted((sweep / _FOLDER).glob("*/submission.json"))]


def _freeze_code(folder: Path) -> list[str]:
    """Copy the packages that workers import.

    Returns:
        Copied files that no commit holds.
    """
    untracked = []
    folder.mkdir()
    (folder / COMMIT_FILE).write_text(environment()["git_commit"] or "")
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin).parent
        shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        command = ["git", "-C", str(source), "ls-files", "--others", "--exclude-standard", "."]
        try:
            told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        except FileNotFoundError:  # no git, as in a container, and so no commits either
            continue
        untracked += [str(source / line) for line in told.splitlines()]
    return untracked


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
