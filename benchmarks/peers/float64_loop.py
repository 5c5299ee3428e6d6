"""The flow as its equation says: float64, autograd, ``torch.randn``. It uses nothing of the package."""

import math

import torch
from torch import Tensor


def train(
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
    """Return the state after some steps of Euler–Maruyama from a state (U, A, W), in which every tensor has a leading
    axis of runs.

    The noise comes from the generator; there is none if β is infinite.
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
    """Return the mean square loss of every run."""
    U, A, W = state
    F = torch.tanh(X @ U.mT) @ A / U.shape[1] @ W
    return ((F - Y) ** 2).sum(dim=(1, 2)) / (2 * X.shape[1])


def nc1(state: tuple[Tensor, Tensor, Tensor], X: Tensor, Y: Tensor) -> Tensor:
    """Return the share of the variance of every run's features that lies within classes, found in two passes."""
    U, A, _ = state
    H = torch.tanh(X @ U.mT) @ A / U.shape[1]
    means = (Y.mT @ H) / Y.sum(dim=1).unsqueeze(-1)
    within = ((H - Y @ means) ** 2).sum(dim=(1, 2))
    return within / ((H - H.mean(dim=1, keepdim=True)) ** 2).sum(dim=(1, 2))
