"""Time several ways of doing the same in turns, so that other processes disturb all of them alike."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

from benchmarks.neighbours import wait_for_quiet

#: Takes a number of steps.
Taker = Callable[[int], None]


@dataclass(frozen=True)
class Way:
    """One way of taking steps, and how many of them make a turn."""

    take: Taker
    steps: int

    @classmethod
    def of_duration(cls, seconds: float, take: Taker, most: int = 5000) -> "Way":
        """Return a way whose turn takes about so many seconds. It is found by trial, which also warms the way up."""
        wait_for_quiet()
        take(2)
        steps = 2
        while (taken := _time(take, steps)) < seconds / 20 and steps < most:
            steps = min(4 * steps, most)
        return cls(take, max(2, min(most, round(steps * seconds / taken))))


def time_steps(ways: Mapping[str, Way], repeats: int) -> dict[str, list[float]]:
    """Return the seconds a step of every turn of every way, after one turn each that does not count."""
    for way in ways.values():
        way.take(way.steps)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        wait_for_quiet()
        for name, way in ways.items():
            found[name].append(_time(way.take, way.steps) / way.steps)
    return found


def medians(found: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the median of the turns of every way."""
    return {name: median(turns) for name, turns in found.items()}


def _time(take: Taker, steps: int) -> float:
    begin = time.perf_counter()
    take(steps)
    return time.perf_counter() - begin
