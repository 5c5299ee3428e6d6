"""Which runs enter averages, and the words for those that do not.

An average along training is over the runs that completed or still go on, at each point over those that got there; an
average of last values is over the runs that completed. Runs that diverged or failed enter none: they end anywhere.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

#: States of the runs that are averaged: by the rows that a chart reads, measurements along training or last values.
AVERAGED: Mapping[str, Sequence[str]] = {"curves": ("completed", "running", "stopped"), "runs": ("completed",)}


def describe_left_out(states: Iterable[str], averaged: Sequence[str]) -> str:
    """Return how many runs an average leaves out, such as ``2 diverged, 1 failed``; empty: none.

    Args:
        states: the state of each run.
        averaged: the states that are averaged.
    """
    counts = Counter(state for state in states if state not in averaged)
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
