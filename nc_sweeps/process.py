"""Prepares a process before a slow library is loaded in it; importing this module changes nothing."""

import os
import sys
from codecs import lookup
from io import TextIOWrapper
from pathlib import Path

from nc_sweeps.errors import UserError

#: How the threads of OpenMP wait for each other. GCC's library, Clang's and Intel's each know the first and another.
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
#: Home of a user who has none: a folder that is not there and that no user can make.
_NO_HOME = "/nonexistent"


def prepare_command() -> None:
    """Prepare the process of a command; the first thing that the command does.

    A Python that leaves out assertions or takes all text for ASCII starts again without that: Hydra's parser relies on
    its assertions, and names, paths and logs are UTF-8.

    Raises:
        UserError: an argument or the working directory is not text, or that directory is gone.
    """
    _restart_if_needed()
    try:
        folder = os.getcwd()
    except FileNotFoundError:
        raise UserError("the working directory is gone; change to another one") from None
    for text in (*sys.argv[1:], folder):
        if not _is_text(text):
            raise UserError(
                f"{str(os.fsencode(text))[1:]}: not text in UTF-8; type it in a UTF-8 locale, or name it in ASCII"
            )
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")  # a terminal of Latin-1 has no "…"
    prepare_process()


def prepare_process() -> None:
    """Prepare a process that trains or starts others that train.

    Its threads wait without spinning, unless the user has said how they wait: on cores that others use too, a thread
    that spins keeps the core from the one for which it waits. A user without a home, such as a number without an
    account in a container, gets one that cannot be written.
    """
    if not any(name in os.environ for name in _WAITING):
        os.environ["OMP_WAIT_POLICY"] = "passive"
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = _NO_HOME


def count_cores() -> int:
    """Return the number of cores that this process may use, where the system tells (Linux), else of all cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _restart_if_needed() -> None:
    own = len(sys.argv) - 1
    options = sys.orig_argv[1 : len(sys.orig_argv) - own]
    kept = [option for option in options if option not in {"-O", "-OO"}]
    environment = dict(os.environ)
    if sys.flags.optimize:
        environment.pop("PYTHONOPTIMIZE", None)
    if lookup(sys.getfilesystemencoding()).name == "ascii":
        environment["PYTHONUTF8"] = "1"
    if kept != options or environment != os.environ:
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *kept, *sys.argv[1:]], environment)


def _is_text(argument: str) -> bool:
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True
