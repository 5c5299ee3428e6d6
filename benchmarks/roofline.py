"""The roofline: what a step would cost if it were three operations of PyTorch, each at the rate it reaches here.

A large float32 product has the rate for 6nN(d + p) operations: three products of two operations a multiply-add. To that
come one pass of ``torch.sigmoid`` over the n × N activations and, with noise, one pass of ``torch.randn`` over the
N(d + p) parameters of the particles, both into memory that is already there.
"""

import torch

from benchmarks.problem import Problem
from benchmarks.turns import Way

_ORDER = 4096
PRODUCT, SIGMOID, NORMALS = "product", "sigmoid", "normals"


def ways(problem: Problem, seconds: float) -> dict[str, Way]:
    """The three operations, to be timed in turns with what they are held against. The product takes what it takes."""
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

    found = {PRODUCT: Way(multiply, 1), SIGMOID: Way.lasting(seconds, activate)}
    return found | {NORMALS: Way.lasting(seconds, draw)} if problem.noisy else found


def rate(seconds: float) -> float:
    """Operations a second of the large product."""
    return 2 * _ORDER**3 / seconds


def roofline(problem: Problem, seconds: dict[str, float]) -> float:
    """Seconds a step of all runs, from the seconds of the three operations."""
    operations = 6 * problem.runs * problem.samples * problem.N * (problem.d + problem.p)
    return operations / rate(seconds[PRODUCT]) + seconds[SIGMOID] + seconds.get(NORMALS, 0.0)
