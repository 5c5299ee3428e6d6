"""The flow as an equation and nothing else: float64, autograd, ``torch.randn``. Nothing of the package is in it."""

import math

import torch
from torch import Tensor


def trained(
    state: tuple[Tensor, Tensor, Tensor],
    X: Tensor,
    Y: Tensor,
    *,
    steps: int,
    step_size: float,
    decay: float,
    beta: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Euler–Maruyama from a state (U, A, W), every tensor with a leading axis of runs.

    The noise is of the given generator; an infinite β has none.
    """
    U, A, W = (Z.double().clone().requires_grad_() for Z in state)
    N = U.shape[1]
    for _ in range(steps):
        F = torch.tanh(X @ U.mT) @ A / N @ W
        loss = ((F - Y) ** 2).sum() / (2 * X.shape[1])
        g_U, g_A, g_W = torch.autograd.grad(loss, (U, A, W))
        with torch.no_grad():
            U -= step_size * (N * g_U + decay * U)
            A -= step_size * (N * g_A + decay * A)
            W -= step_size * (g_W + decay * W)
            if math.isfinite(beta):
                for particles in (U, A):
                    xi = torch.randn(particles.shape, dtype=torch.float64, generator=generator)
                    particles.add_(xi, alpha=math.sqrt(2 * step_size / beta))
    return U.detach(), A.detach(), W.detach()


def loss(state: tuple[Tensor, Tensor, Tensor], X: Tensor, Y: Tensor) -> Tensor:
    """Mean square loss of every run."""
    U, A, W = state
    F = torch.tanh(X @ U.mT) @ A / U.shape[1] @ W
    return ((F - Y) ** 2).sum(dim=(1, 2)) / (2 * X.shape[1])


def nc1(state: tuple[Tensor, Tensor, Tensor], X: Tensor, Y: Tensor) -> Tensor:
    """Share of the variance of the features of every run that lies within classes, in two passes as it is defined."""
    U, A, _ = state
    H = torch.tanh(X @ U.mT) @ A / U.shape[1]
    means = (Y.mT @ H) / Y.sum(dim=1).unsqueeze(-1)
    within = ((H - Y @ means) ** 2).sum(dim=(1, 2))
    return within / ((H - H.mean(dim=1, keepdim=True)) ** 2).sum(dim=(1, 2))
