"""Section ``scaling``: milliseconds a step of the compiled kernel against width, samples and runs.

The sizes of a row are timed in turns; the slope is that of a least-squares line through the logarithms.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from benchmarks.ours import Ours
from benchmarks.problem import MNIST, Problem
from benchmarks.report import print_table, print_target
from benchmarks.turns import Way, medians, time_steps

#: Distance from slope 1 that the project aims at.
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


#: Numbers of samples of the epochs that are timed; the paper has 30,000.
_EPOCHS = (3_750, 7_500, 15_000, 30_000)


def main(quick: bool) -> None:
    """Measure all series and print their slopes."""
    repeats, seconds = (3, 0.03) if quick else (9, 0.15)
    for name, (problem, sizes) in SERIES.items():
        ways = {str(size): Way.of_duration(seconds, Ours(problem(size)).take) for size in sizes}
        found = list(medians(time_steps(ways, repeats)).values())
        _show(f"a step against {name}", sizes, found, f"Medians of {repeats} turns of about {seconds} s.")
    epochs = _EPOCHS[:2] if quick else _EPOCHS
    ways = {str(n): Way(Ours(replace(MNIST, n=n)).take, -(-n // MNIST.samples)) for n in epochs}
    repeats = 1 if quick else 3
    found = [way.steps * t for way, t in zip(ways.values(), medians(time_steps(ways, repeats)).values(), strict=True)]
    _show("an epoch against n, d = 784, N = 6272, batch 64, no noise", epochs, found, f"Medians of {repeats} turns.")


def _show(title: str, sizes: Sequence[int], seconds: Sequence[float], caption: str) -> None:
    variable = title.split(" against ")[1].split(",", maxsplit=1)[0]
    each = [1e6 * t / size for t, size in zip(seconds, sizes, strict=True)]
    print_table(
        f"Milliseconds {title}",
        [variable, *(f"{size}" for size in sizes)],
        [["ms", *(f"{1e3 * t:.3g}" for t in seconds)], [f"µs / {variable}", *(f"{value:.3g}" for value in each)]],
        caption,
    )
    slope = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
    print_target("slope", slope, least=1 - _TOLERANCE, most=1 + _TOLERANCE)
