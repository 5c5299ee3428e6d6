"""What other processes take of the processors meanwhile (Linux; elsewhere unknown).

Threads that meet at every step, as those of the compiled kernel and of a product do, wait for the one that a neighbour
keeps from running: one busy neighbour on two cores can cost a factor of a hundred at small widths. So rounds of turns
wait for a quiet moment, for a while, and every section says how quiet it was.
"""

import os
import time
from pathlib import Path

_STAT = Path("/proc/stat")
#: A moment is quiet if others take less than this share of one core in it.
_QUIET, _MOMENT = 0.1, 0.3
#: Seconds that all waiting of this process may take together.
_patience = 300.0


class Neighbours:
    """Clocks the processor time of others from its making on."""

    def __init__(self) -> None:
        self.begin = time.perf_counter()
        self.others = _others()

    def cores(self) -> float:
        """Cores that others kept busy, on average; NaN where the system does not tell."""
        return (_others() - self.others) / (time.perf_counter() - self.begin)


def wait_for_quiet() -> None:
    """Return in a quiet moment, or when patience is at its end."""
    global _patience  # noqa: PLW0603
    begin = time.perf_counter()
    while _patience > 0 and _STAT.exists():
        neighbours = Neighbours()
        time.sleep(_MOMENT)
        if neighbours.cores() < _QUIET:
            return
        _patience -= time.perf_counter() - begin
        begin = time.perf_counter()


def _others() -> float:
    """Seconds of processor time of all processes but this one and its finished children."""
    if not _STAT.exists():
        return float("nan")
    user, nice, system, _, _, irq, softirq = (int(t) for t in _STAT.read_text().split()[1:8])
    own = os.times()
    mine = own.user + own.system + own.children_user + own.children_system
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK") - mine
