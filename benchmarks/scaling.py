"""Section ``scaling``: milliseconds a step of the compiled kernel against width, samples and runs.

The sizes of a row are timed in turns; the slope is that of a straight line through the logarithms (least squares).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.ours import Ours
from benchmarks.problem import Problem
from benchmarks.report import promise, table
from benchmarks.turns import Way, medians, seconds_a_step

#: Distance from slope 1 that the project allows itself.
_TOLERANCE = 0.05

SERIES: dict[str, tuple[Callable[[int], Problem], Sequence[int]]] = {
    "N, d = 784, p = 16, batch 64, no noise": (
        lambda N: Problem(d=784, N=N, p=16, n=6_400, batch=64, beta=math.inf),
        (1568, 3136, 6272, 12_544, 25_088),
    ),
    "N, d = 16, p = 8, n = 600, noise": (lambda N: Problem(d=16, N=N, p=8), (256, 1024, 4096, 16_384)),
    "n, d = 16, p = 8, N = 1024, noise": (
        lambda n: Problem(d=16, N=1024, p=8, n=n),
        (150, 300, 600, 1200, 2400, 4800, 9600),
    ),
    "runs, d = 16, p = 8, N = 256, n = 600, noise": (
        lambda runs: Problem(d=16, N=256, p=8, runs=runs),
        (1, 2, 4, 8, 16, 32),
    ),
}


def main(quick: bool) -> None:
    """Measure the four series and print their slopes."""
    repeats, seconds = (3, 0.03) if quick else (9, 0.15)
    for name, (problem, sizes) in SERIES.items():
        ways = {str(size): Way.lasting(seconds, Ours(problem(size)).take) for size in sizes}
        found = list(medians(seconds_a_step(ways, repeats)).values())
        each = [1e6 * t / size for t, size in zip(found, sizes, strict=True)]
        of = name.split(",")[0]
        table(
            f"Milliseconds a step against {name}",
            [of, *(f"{size}" for size in sizes)],
            [["ms", *(f"{1e3 * t:.3g}" for t in found)], [f"µs / {of}", *(f"{value:.3g}" for value in each)]],
            f"Medians of {repeats} turns of about {seconds} s.",
        )
        slope = float(np.polyfit(np.log(sizes), np.log(found), 1)[0])
        promise("slope", slope, least=1 - _TOLERANCE, most=1 + _TOLERANCE)
