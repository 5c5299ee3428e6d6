"""Section ``step``: milliseconds a run-step of the compiled kernel, of autograd, of JAX, and of the roofline.

All ways begin with the same data and state, and take turns in this process: the flow as training calls it, plain
autograd (all runs as one batched loss), JAX ``jit(vmap(scan))``, and the three operations of the roofline. Before that
they take some steps without noise, which must end in the same state.
"""

import math
from dataclasses import replace
from statistics import geometric_mean

from benchmarks import roofline
from benchmarks.ours import Ours
from benchmarks.peers.jax_scan import JaxScan
from benchmarks.peers.plain_autograd import PlainAutograd
from benchmarks.problem import MNIST, Problem
from benchmarks.report import console, print_table, print_target
from benchmarks.turns import Way, medians, time_steps

FULL_BATCH = (
    Problem(d=16, N=64, p=8),
    Problem(d=16, N=256, p=8),
    Problem(d=16, N=1024, p=8),
    Problem(d=16, N=4096, p=8),
    Problem(d=64, N=4096, p=16),
    Problem(d=16, N=64, p=8, runs=16),
)
LARGE = Problem(d=2048, N=16_384, p=64, n=500, batch=64)
MNIST_EPOCH = -(-MNIST.n // 64)

OURS, AUTOGRAD, JAX = "ours", "autograd", "JAX"
_RATIOS = ("JAX/\nours", "auto/\nours", "roof/\nours")
_WAYS = {OURS: Ours, AUTOGRAD: PlainAutograd, JAX: JaxScan}


def main(quick: bool) -> None:
    """Measure all shapes and print the table."""
    repeats, seconds = (2, 0.05) if quick else (7, 0.3)
    console.print(
        f"\nLargest difference after 5 steps without noise: {_measure_disagreement():.1e} of the largest parameter"
    )
    rows, ratios, shares, rates = [], [], [], []
    for problem in (*FULL_BATCH, MNIST, LARGE):
        found = _measure(problem, repeats, seconds)
        rates.append(roofline.find_rate(found[roofline.PRODUCT]))
        ours, autograd, jax = (found[way] / problem.runs for way in (OURS, AUTOGRAD, JAX))
        bound = roofline.bound_step(problem, found) / problem.runs
        ratios.append((problem, jax / ours))
        shares.append((problem, bound / ours))
        times = [_format(1e3 * value) for value in (ours, autograd, jax, bound)]
        rows.append([*_describe(problem), *times, f"{jax / ours:.2f}", f"{autograd / ours:.2f}", f"{bound / ours:.0%}"])
    print_table(
        "Milliseconds a run-step, q = 3, float32",
        ["d, N, p", "R", "batch", "noise", "ours", "auto", "JAX", "roof", *_RATIOS],
        rows,
        f"Medians of {repeats} turns of about {seconds} s; auto: plain autograd. "
        f"Large product: {min(rates) / 1e9:.0f} to {max(rates) / 1e9:.0f} GFLOP/s.",
    )
    mean = geometric_mean([ratio for problem, ratio in ratios if problem.d <= 64 and problem.runs == 1])
    print_target("JAX/ours, geometric mean over d ≤ 64, R = 1", mean, least=2.5)
    print_target("JAX/ours, least of all shapes", min(ratio for _, ratio in ratios), least=1)
    print_target("roofline/ours, least over N ≥ 1024", min(s for problem, s in shares if problem.N >= 1024), least=0.5)
    _time_epoch(1 if quick else 3)


def _measure(problem: Problem, repeats: int, seconds: float) -> dict[str, float]:
    """Return the median seconds of a step of every way, and of every operation of the roofline."""
    ours, autograd, jax = Ours(problem), PlainAutograd(problem), JaxScan(problem)
    mine = Way.of_duration(seconds, ours.take)
    ways = {
        OURS: mine,
        AUTOGRAD: Way.of_duration(seconds, autograd.take),
        # Every number of steps is compiled anew, so JAX is not asked how many it wants.
        JAX: Way(jax.take, max(3, mine.steps // 3)),
    }
    found = medians(time_steps(ways | roofline.build_ways(problem, seconds / 4), repeats))
    if not all(bool(Z.isfinite().all()) for way in (ours, autograd, jax) for Z in way.state()):
        raise SystemExit(f"diverged at {problem}: steps of numbers that are not finite take another time")
    return found


def _format(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _describe(problem: Problem) -> list[str]:
    samples = f"{problem.batch}/{problem.n}" if problem.batch else f"{problem.n}"
    return [f"{problem.d}, {problem.N}, {problem.p}", f"{problem.runs}", samples, "yes" if problem.noisy else "no"]


def _measure_disagreement() -> float:
    """Return the largest relative difference of a parameter between the three ways, without noise."""
    problem = replace(FULL_BATCH[1], beta=math.inf, runs=2)
    states = []
    for way in _WAYS.values():
        taker = way(problem)
        taker.take(5)
        states.append([Z.detach().double() for Z in taker.state()])
    pairs = [(Z, Z_ours) for state in states[1:] for Z, Z_ours in zip(state, states[0], strict=True)]
    return max(float((Z - Z_ours).abs().max() / Z_ours.abs().max()) for Z, Z_ours in pairs)


def _time_epoch(repeats: int) -> None:
    """Time whole epochs of the MNIST setting, permutation of the samples and short last batch included."""
    ways = {OURS: Way(Ours(MNIST).take, MNIST_EPOCH)} | roofline.build_ways(MNIST, 0.1)
    found = medians(time_steps(ways, repeats))
    bound = MNIST_EPOCH * roofline.bound_step(MNIST, found)
    seconds = MNIST_EPOCH * found[OURS]
    console.print(
        f"\nMNIST setting, an epoch of {MNIST_EPOCH} steps: [bold]{seconds:.2f} s[/], roofline {bound:.2f} s "
        f"(medians of {repeats} in turns)"
    )
    print_target("epoch/roofline", seconds / bound, most=1.6)
