"""The user's cache: what is made once on a machine and can be made again."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

#: Bytes that have to be free in the folder: what is kept there takes less.
_LEAST_SPACE = 2**20


def find_folder() -> Path:
    """Return the folder of the cache, which is made if need be.

    Where it cannot be written, a scratch folder takes its place, which is removed when this process ends: only then is
    anything registered with :mod:`atexit`.
    """
    try:
        return find_lasting_folder()
    except (OSError, RuntimeError):  # RuntimeError: a user of whom the system knows no home
        scratch = tempfile.mkdtemp(prefix="nc-sweeps-")
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        return Path(scratch)


def find_lasting_folder() -> Path:
    """Return the folder of the cache, for what is to stay when this process ends; it is made if need be.

    Raises:
        OSError: it cannot be written, or its disk is full.
        RuntimeError: the system knows no home of the user.
    """
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nc-sweeps"
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryFile(dir=path) as file:
        file.write(bytes(_LEAST_SPACE))
        file.flush()
    return path
