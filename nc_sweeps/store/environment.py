"""The environment of this process: the versions and the commit that produced a number."""

import importlib.metadata
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

#: Beside a copy of this package: the commit of the original.
COMMIT_FILE = "nc_sweeps.commit"
_PACKAGES = ("nc-sweeps", "torch", "pytorch-lightning", "hydra-core", "omegaconf", "numpy", "polars")


@cache
def describe_environment() -> dict[str, Any]:
    """Return the versions of what produces the numbers, the git commit of this code (None outside a checkout), and the
    host.
    """
    return {
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "git_commit": _find_commit(),
        "host": platform.node(),
        "machine": platform.machine(),
    }


def _find_commit() -> str | None:
    copied = Path(__file__).parents[2] / COMMIT_FILE
    if copied.is_file():
        return copied.read_text() or None
    try:
        _git("ls-files", "--error-unmatch", __file__)  # fails for a copy that lies in somebody else's repository
        return _git("rev-parse", "HEAD") + ("-dirty" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
