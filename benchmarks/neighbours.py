"""CPU time that other processes take meanwhile (on Linux; unknown elsewhere).

The threads of the compiled kernel and of a matrix product wait for each other at every step, also for the one whose
core another process uses: one busy neighbour on two cores can cost a factor of a hundred at small widths. So rounds of
turns wait for a quiet moment, for a while, and every section says how quiet it was.
"""

import os
import time
from pathlib import Path

_STAT = Path("/proc/stat")
#: A moment, in seconds, is quiet if others take less than this share of one core.
_QUIET, _MOMENT = 0.1, 0.3
#: Seconds for which this process may still wait.
_patience = 300.0


class Neighbours:
    """Clocks the CPU time of other processes from the moment it is created."""

    def __init__(self) -> None:
        self.begin = time.perf_counter()
        self.others = _read_seconds_of_others()

    def count_busy_cores(self) -> float:
        """Return how many cores others kept busy, on average; NaN if the system does not tell."""
        return (_read_seconds_of_others() - self.others) / (time.perf_counter() - self.begin)


def wait_for_quiet() -> None:
    """Wait for a quiet moment, but not longer than patience lasts."""
    global _patience  # noqa: PLW0603
    begin = time.perf_counter()
    while _patience > 0 and _STAT.exists():
        neighbours = Neighbours()
        time.sleep(_MOMENT)
        if neighbours.count_busy_cores() < _QUIET:
            return
        _patience -= time.perf_counter() - begin
        begin = time.perf_counter()


def _read_seconds_of_others() -> float:
    """Return the seconds of CPU time of all processes but this one and its finished children."""
    if not _STAT.exists():
        return float("nan")
    user, nice, system, _, _, irq, softirq = (int(t) for t in _STAT.read_text().split()[1:8])
    own = os.times()
    mine = own.user + own.system + own.children_user + own.children_system
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK") - mine
