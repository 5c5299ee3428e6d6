"""Copies of the code that jobs run, so that later edits do not reach jobs that wait in a queue."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

from nc_sweeps.store.environment import COMMIT_FILE, describe_environment

#: Packages that tasks import. ``conf/`` and ``hydra_plugins`` are not among them: Hydra has composed the configurations
#: that the manifest holds.
_PACKAGES = ("nc_sweeps", "nc_launch")


def freeze_code(folder: Path) -> list[str]:
    """Copy the packages that tasks import, and their commit, to a new folder.

    Returns:
        Copied files that no commit holds.
    """
    untracked = []
    folder.mkdir()
    (folder / COMMIT_FILE).write_text(describe_environment()["git_commit"] or "")
    for name in _PACKAGES:
        package = importlib.util.find_spec(name)
        assert package is not None
        assert package.origin is not None
        source = Path(package.origin).parent
        shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        command = ["git", "-C", str(source), "ls-files", "--others", "--exclude-standard", "."]
        try:
            output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        except FileNotFoundError:  # a container may have no git, and then no commits either
            continue
        untracked += [str(source / line) for line in output.splitlines()]
    return untracked
