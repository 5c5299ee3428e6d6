"""``python keeper.py COMMAND…``: run a command as if on a machine of its own, which fails when standard input ends.

Standard input ends at the latest when the process that holds the pipe dies. Then every process that the command left is
killed, also those that moved into sessions of their own, as SLURM's steps and jobs do.
"""

import ctypes
import os
import signal
import sys
import time
from contextlib import suppress

import psutil

PR_SET_CHILD_SUBREAPER = 36


def reap(*_: object) -> None:
    """Collect the children that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def main(command: list[str]) -> None:
    # A process that loses its parent becomes a child of this process, not of init: none escapes.
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    signal.signal(signal.SIGCHLD, reap)
    null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    os.posix_spawnp(command[0], command, os.environ, file_actions=[null])
    sys.stdin.buffer.read()
    # A process may fork while its children are being counted.
    while processes := psutil.Process().children(recursive=True):
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.01)


if __name__ == "__main__":
    main(sys.argv[1:])
