"""Takes back the files of Hydra in the folder of a sweep of which a command trains nothing."""

import atexit
from pathlib import Path

from nc_sweeps.store import files, manifest


class FolderBefore:
    """The folder of a sweep as it was before a command.

    Args:
        sweep: folder of the sweep, which need not exist.
    """

    def __init__(self, sweep: Path) -> None:
        self.sweep = sweep.absolute()
        self.missing = [folder for folder in (self.sweep, *self.sweep.parents) if not folder.exists()]
        self.manifest = manifest.list_paths(self.sweep)
        self.record = self.sweep / "multirun.yaml"
        self.content = self.record.read_bytes() if self.record.is_file() else None

    def take_back(self) -> None:
        """Restore Hydra's record of its latest command, and remove new folders that are empty, unless the manifest says
        that runs were begun.
        """
        if manifest.list_paths(self.sweep) != self.manifest:
            return
        if self.content is not None:
            files.write(self.record, self.content)
        else:
            self.record.unlink(missing_ok=True)
        for folder in self.missing:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def take_back_at_exit(sweep: Path) -> None:
    """When this process ends, take back what it leaves in the folder of a sweep of which it begins no run."""
    atexit.register(FolderBefore(sweep).take_back)
