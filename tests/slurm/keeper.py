"""``python keeper.py COMMAND…``: one machine, as far as processes go.

Runs the command until standard input ends, which it does at the latest when the process that holds the pipe dies. Then
the machine fails: every process that the command left is killed, also those that moved into sessions of their own, as
SLURM's steps and jobs do.
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
    """Take leave of the children that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def main(command: list[str]) -> None:
    # What loses its parent becomes a child of this process instead of init's: nothing leaves the machine.
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
