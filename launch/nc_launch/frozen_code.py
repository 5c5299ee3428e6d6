"""Copies of the code that jobs run, so that later edits do not reach jobs that wait in a queue."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

from nc_launch.backends import LaunchError
from nc_sweeps.store.environment import COMMIT_FILE, describe_environment

#: Packages that tasks import. ``conf/`` and ``hydra_plugins`` are not among them: Hydra has composed the configurations
#: that the manifest holds.
_PACKAGES = ("nc_sweeps", "nc_launch")

#: What stands around the reason in the text of an error of the system: its number and the files.
_REASON = re.compile(r"^\[Errno \d+\] |: '.*$", re.DOTALL)


def freeze_code(folder: Path) -> list[str]:
    """Copy the packages that tasks import, and their commit, to a new folder.

    Returns:
        Copied files that no commit holds.

    Raises:
        LaunchError: a file cannot be copied, for example to a full disk.
    """
    untracked = []
    folder.mkdir()
    (folder / COMMIT_FILE).write_text(describe_environment()["git_commit"] or "", "utf-8")
    for name in _PACKAGES:
        package = importlib.util.find_spec(name)
        assert package is not None
        assert package.origin is not None
        source = Path(package.origin).parent
        try:
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        except shutil.Error as error:  # of every file that could not be copied: the original, the copy and why
            _, copy, why = error.args[0][0]
            raise LaunchError(f"{copy}: cannot be written ({_REASON.sub('', why)})") from error
        command = ["git", "-C", str(source), "ls-files", "--others", "--exclude-standard", "."]
        try:
            output = subprocess.run(
                command, capture_output=True, encoding="utf-8", errors="replace", check=False
            ).stdout
        except FileNotFoundError:  # a container may have no git, and then no commits either
            continue
        untracked += [str(source / line) for line in output.splitlines()]
    return untracked
