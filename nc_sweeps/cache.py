"""The user's cache: what is made once on a machine and can be made again."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path


def find_folder() -> Path:
    """Return the folder of the cache, which is made if need be.

    Where it cannot be written, a scratch folder takes its place, which is removed when this process ends: only then is
    anything registered with :mod:`atexit`.
    """
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nc-sweeps"
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError:
        scratch = tempfile.mkdtemp(prefix="nc-sweeps-")
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        return Path(scratch)
