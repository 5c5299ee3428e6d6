"""Problems on which steps are timed: data and initial state, the same for every way of taking steps."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

#: Step size and, without noise, weight decay. With noise the decay is 1/β, as in the paper.
STEP_SIZE = 0.1
DECAY = 1e-3


@dataclass(frozen=True)
class Problem:
    """R networks of one shape and their training sets.

    Args:
        d, N, p, q: input dimension, particles, features, classes.
        n: training samples.
        runs: R.
        batch: samples a step; None: all.
        beta: inverse temperature; infinite without noise.
    """

    d: int
    N: int
    p: int
    q: int = 3
    n: int = 600
    runs: int = 1
    batch: int | None = None
    beta: float = 1e3

    @property
    def samples(self) -> int:
        """Number of samples a step."""
        return self.batch or self.n

    @property
    def decay(self) -> float:
        """λ of particles and head."""
        return 1 / self.beta if self.noisy else DECAY

    @property
    def noisy(self) -> bool:
        """Whether the particles diffuse."""
        return math.isfinite(self.beta)

    @property
    def noise(self) -> float:
        """Standard deviation of the noise of a step."""
        return math.sqrt(2 * STEP_SIZE / self.beta)

    @cached_property
    def data(self) -> tuple[Tensor, Tensor]:
        """X (run, n, d) with rows of norm about 1, and one-hot Y (run, n, q)."""
        generator = torch.Generator().manual_seed(0)
        X = torch.randn(self.runs, self.n, self.d, generator=generator).div_(math.sqrt(self.d))
        labels = torch.randint(self.q, (self.runs, self.n), generator=generator)
        return X, torch.nn.functional.one_hot(labels, self.q).float()

    def state(self) -> tuple[Tensor, Tensor, Tensor]:
        """Draw the initial state: U (run, N, d), A (run, N, p), W (run, p, q)."""
        generator = torch.Generator().manual_seed(1)
        U = torch.randn(self.runs, self.N, self.d, generator=generator)
        A = torch.randn(self.runs, self.N, self.p, generator=generator)
        W = torch.randn(self.runs, self.p, self.q, generator=generator) / math.sqrt(self.p)
        return U, A, W


#: Fig. 1(a) of the paper.
MNIST = Problem(d=784, N=6272, p=16, n=30_000, batch=64, beta=math.inf)
