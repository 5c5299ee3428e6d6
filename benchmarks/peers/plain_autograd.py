"""PyTorch as its users write it: the loss, ``torch.autograd.grad``, an update in place."""

import torch
from torch import Tensor

from benchmarks.problem import STEP_SIZE, Problem


class PlainAutograd:
    """Takes steps of all runs as one batched loss; a single run has no batch axis, which is faster."""

    def __init__(self, problem: Problem) -> None:
        single = problem.runs == 1
        self.problem = problem
        self.X, self.Y = (Z[0] if single else Z for Z in problem.data)
        U, A, W = ((Z[0] if single else Z).requires_grad_() for Z in problem.state())
        self.parameters = U, A, W
        self.order = torch.empty(0, dtype=torch.int64)

    def take(self, steps: int) -> None:
        """Take some steps."""
        for _ in range(steps):
            self._take_one()

    def state(self) -> tuple[Tensor, ...]:
        """Return U, A and W."""
        return self.parameters

    def _take_one(self) -> None:
        problem = self.problem
        U, A, W = self.parameters
        X, Y = self._samples()
        F = torch.tanh(X @ U.mT) @ A / problem.N @ W
        loss = (F - Y).square().sum() / (2 * X.shape[-2])
        gradients = torch.autograd.grad(loss, self.parameters)
        with torch.no_grad():
            for parameter, gradient, scale in zip(self.parameters, gradients, (problem.N, problem.N, 1), strict=True):
                parameter.mul_(1 - STEP_SIZE * problem.decay).sub_(gradient, alpha=STEP_SIZE * scale)
            if problem.noisy:
                for particles in (U, A):
                    particles.add_(torch.randn_like(particles), alpha=problem.noise)

    def _samples(self) -> tuple[Tensor, Tensor]:
        if self.problem.batch is None:
            return self.X, self.Y
        if not len(self.order):
            self.order = torch.randperm(self.problem.n)
        chosen, self.order = self.order[: self.problem.batch], self.order[self.problem.batch :]
        return self.X[chosen], self.Y[chosen]
