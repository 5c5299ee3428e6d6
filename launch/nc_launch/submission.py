"""A submission: packs that were handed to a backend, with all that they need to run, in a folder of the sweep.

====================  ================================================================================================
``submission.json``   name of the backend, settings of the launcher, the packs, and the jobs that run them
``code/``             the source at submission and its commit; later edits do not reach jobs that wait in a queue
``logs/``             output of the jobs, and the files of submitit
``pack-<k>.json``     progress of a pack
``cancelled``         exists if somebody cancelled the submission
====================  ================================================================================================
"""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from nc_launch.pack_progress import PackProgress
from nc_launch.settings import SETTINGS, LaunchSettings
from nc_sweeps.errors import StoreError
from nc_sweeps.run_spec import RunSpec
from nc_sweeps.store import files

_FOLDER = ".launch"
_FILE = "submission.json"


@dataclass(frozen=True)
class Origin:
    """The backend and the settings with which a submission was launched.

    Args:
        backend_name: key of :data:`nc_launch.backends.BACKENDS`.
        settings: settings of the launcher.
    """

    backend_name: str
    settings: LaunchSettings


@dataclass
class Submission:
    """The content of ``submission.json``, and the files beside it.

    Args:
        folder: folder of the submission.
        origin: backend and settings.
        manifest: file of the manifest that holds the runs.
        packs: names of the run folders of each pack.
        jobs: packs of each job, in the order in which the jobs were started.
        untracked: files of the frozen code that are in no commit.
    """

    folder: Path
    origin: Origin
    manifest: Path
    packs: list[list[str]]
    jobs: dict[str, list[int]] = field(default_factory=dict)
    untracked: list[str] = field(default_factory=list)

    @classmethod
    def create(cls, origin: Origin, manifest: Path, packs: Sequence[Sequence[RunSpec]]) -> Self:
        """Make the folder of a new submission.

        Args:
            origin: backend and settings.
            manifest: file of the manifest that holds the runs.
            packs: runs of each pack.
        """
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{uuid.uuid4().hex[:6]}"
        folder = manifest.parent.parent / _FOLDER / name
        folder.mkdir(parents=True)
        return cls(folder, origin, manifest, [[spec.directory.name for spec in pack] for pack in packs])

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the submission in a folder.

        Raises:
            StoreError: ``submission.json`` cannot be read.
        """
        path = folder / _FILE
        content = files.read_json(path, {"place", "settings", "manifest", "packs", "jobs"})
        name = content["place"]
        if name not in SETTINGS:
            raise StoreError(f"{path}: damaged, there is no backend {name}")
        return cls(
            folder,
            Origin(name, SETTINGS[name].from_dict(content["settings"])),
            folder.parent.parent / content["manifest"],
            content["packs"],
            content["jobs"],
            content.get("untracked", []),
        )

    def write(self) -> None:
        """Write ``submission.json``."""
        content = {
            "place": self.origin.backend_name,  # the key of earlier versions, so that each reads the other's files
            "settings": self.origin.settings.to_dict(),
            "manifest": str(self.manifest.relative_to(self.sweep)),
            "packs": self.packs,
            "jobs": self.jobs,
            "untracked": self.untracked,
        }
        files.write(self.folder / _FILE, json.dumps(content).encode())

    @property
    def sweep(self) -> Path:
        """Folder of the sweep that the submission belongs to."""
        return self.folder.parent.parent

    @property
    def code(self) -> Path:
        """Folder of the frozen code that the jobs run."""
        return self.folder / "code"

    @property
    def logs(self) -> Path:
        """Folder of the output of the jobs."""
        return self.folder / "logs"

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody cancelled the submission."""
        return (self.folder / "cancelled").exists()

    @property
    def run_names(self) -> list[str]:
        """Names of the run folders of all packs."""
        return [name for pack in self.packs for name in pack]

    def find_job(self, pack: int) -> str:
        """Return the latest job of a pack."""
        return [job for job, packs in self.jobs.items() if pack in packs][-1]

    def progress_path(self, pack: int) -> Path:
        """Return the path of a pack's ``pack-<k>.json``."""
        return self.folder / f"pack-{pack}.json"

    def read_progress(self, pack: int) -> PackProgress:
        """Return how far a pack is."""
        return PackProgress.read(self.progress_path(pack))

    def read_all_progress(self) -> list[PackProgress]:
        """Return how far each pack is."""
        return [self.read_progress(pack) for pack in range(len(self.packs))]

    def mark_cancelled(self) -> None:
        """Record that the submission is cancelled, so that no watcher starts its packs again."""
        (self.folder / "cancelled").touch()

    def split(self, pack: int) -> list[int]:
        """Cut a pack into halves.

        Returns:
            Numbers of the two packs.
        """
        names = self.packs[pack]
        middle = len(names) // 2
        self.packs[pack] = names[:middle]
        self.packs.append(names[middle:])
        self.write()
        return [pack, len(self.packs) - 1]


def find_submissions(sweep: Path) -> list[Submission]:
    """Return all submissions of a sweep in the order of time."""
    return [Submission.read(path.parent) for path in sorted((sweep / _FOLDER).glob(f"*/{_FILE}"))]
