"""Commands as a user gives them, timed from the outside."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

#: ``nc-train`` of the environment that runs the benchmark.
NC_TRAIN = str(Path(sys.executable).parent / "nc-train")


@dataclass(frozen=True)
class Finished:
    """A command that has ended.

    Args:
        seconds: wall-clock time.
        peak_bytes: largest memory of any one of its processes.
        output: what it printed.
    """

    seconds: float
    peak_bytes: int
    output: str


def time_command(command: Sequence[str], directory: Path | str, expected: int = 0) -> Finished:
    """Run a command in a directory and time it.

    Raises:
        SystemExit: its exit code is not the expected one.
    """
    with tempfile.TemporaryFile("w+") as output:
        begin = time.perf_counter()
        process = subprocess.Popen(command, cwd=directory, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        # wait4 has taken the process away from Popen, which would wait for it in vain.
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        printed = output.read()
    if process.returncode != expected:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}\n{printed[-2000:]}")
    return Finished(seconds, usage.ru_maxrss * 1024, printed)
