"""Time several ways of doing the same in turns, so that what else the machine does meets all alike."""

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
    def lasting(cls, seconds: float, take: Taker, most: int = 5000) -> "Way":
        """A way whose turn lasts about so long, found by trial, which also warms it up."""
        wait_for_quiet()
        take(2)
        steps = 2
        while (taken := _seconds(take, steps)) < seconds / 20 and steps < most:
            steps = min(4 * steps, most)
        return cls(take, max(2, min(most, round(steps * seconds / taken))))


def seconds_a_step(ways: Mapping[str, Way], repeats: int) -> dict[str, list[float]]:
    """Every turn of every way, after one turn each that does not count."""
    for way in ways.values():
        way.take(way.steps)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        wait_for_quiet()
        for name, way in ways.items():
            found[name].append(_seconds(way.take, way.steps) / way.steps)
    return found


def medians(found: Mapping[str, list[float]]) -> dict[str, float]:
    """Median of the turns of every way."""
    return {name: median(turns) for name, turns in found.items()}


def _seconds(take: Taker, steps: int) -> float:
    begin = time.perf_counter()
    take(steps)
    return time.perf_counter() - begin
