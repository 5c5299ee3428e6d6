"""The user's cache: what is made once on a machine and can be made again."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path


def folder() -> Path:
    """Where it lies, or a folder of this process where that cannot be written."""
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nc-sweeps"
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError:
        scratch = tempfile.mkdtemp(prefix="nc-sweeps-")
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        return Path(scratch)
