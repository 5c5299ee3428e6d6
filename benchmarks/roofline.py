"""The roofline: the time of a step if it were three operations of PyTorch, each at the rate that it reaches here.

A large float32 product gives the rate for 6nN(d + p) operations: three products of two operations a multiply-add. Added
are one pass of ``torch.sigmoid`` over the n × N activations and, with noise, one pass of ``torch.randn`` over the N(d +
p) parameters of the particles, both into memory that is already allocated.
"""

import torch

from benchmarks.problem import Problem
from benchmarks.turns import Way

_ORDER = 4096
PRODUCT, SIGMOID, NORMALS = "product", "sigmoid", "normals"


def build_ways(problem: Problem, seconds: float) -> dict[str, Way]:
    """Return the three operations, to be timed in turns with the steps that are compared with them.

    Args:
        problem: what is stepped.
        seconds: duration of a turn; that of the product has a duration of its own.
    """
    left, right, product = (torch.randn(_ORDER, _ORDER) for _ in range(3))
    before = torch.randn(problem.runs * problem.samples * problem.N)
    after = torch.empty_like(before)
    noise = torch.empty(problem.runs * problem.N * (problem.d + problem.p))

    def multiply(steps: int) -> None:
        for _ in range(steps):
            torch.mm(left, right, out=product)

    def activate(steps: int) -> None:
        for _ in range(steps):
            torch.sigmoid(before, out=after)

    def draw(steps: int) -> None:
        for _ in range(steps):
            torch.randn(noise.shape, out=noise)

    found = {PRODUCT: Way(multiply, 1), SIGMOID: Way.of_duration(seconds, activate)}
    return found | {NORMALS: Way.of_duration(seconds, draw)} if problem.noisy else found


def find_rate(seconds: float) -> float:
    """Return the operations a second of the large product."""
    return 2 * _ORDER**3 / seconds


def bound_step(problem: Problem, seconds: dict[str, float]) -> float:
    """Return the seconds of a step of all runs from the seconds of the three operations."""
    operations = 6 * problem.runs * problem.samples * problem.N * (problem.d + problem.p)
    return operations / find_rate(seconds[PRODUCT]) + seconds[SIGMOID] + seconds.get(NORMALS, 0.0)
