r"""Hand-derived gradients of the loss (20).

With :math:`G = (\gamma/n)\, r W^\top`, and in the mean-field scaling (N times the plain gradient for the particles):

.. math::
    g_A = S^\top G, \qquad
    g_U = \big((G A^\top) \circ \sigma'(X U^\top)\big)^\top X, \qquad
    g_W = (\gamma/n)\, H^\top r.

With a truncation :math:`\tau_R` of the second layer A becomes :math:`\tau_R(A)` in :math:`g_U`, and :math:`g_A` gains
the factor :math:`\tau_R'(A)`.

Weight decay is not included: the integrators treat it, each in its own way.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nc_sweeps.models.mean_field import MeanFieldEnsemble, activations, particle_blocks

#: Activations of all blocks that may be held between the two passes.
KEPT_ELEMENTS = 2**25


@dataclass(frozen=True)
class LossGradients:
    r"""Gradients of :math:`L_n = \|F - Y\|_F^2 / (2n)` and the features H they were computed from."""

    A: Float[Tensor, "run N p"]
    U: Float[Tensor, "run N d"]
    W: Float[Tensor, "run p q"]
    features: Float[Tensor, "run n p"]


def loss_gradients(
    ensemble: MeanFieldEnsemble, X: Float[Tensor, "run n d"], Y: Float[Tensor, "run n q"]
) -> LossGradients:
    r"""Mean-field gradients of :math:`L_n` at the current state.

    The activations are kept between the two passes while they are few, and recomputed otherwise, so that memory does
    not grow with n × N.
    """
    runs, n = X.shape[:2]
    N = ensemble.particles
    A = ensemble.second_layer
    blocks = list(particle_blocks(runs, n, N))
    H = X.new_zeros(runs, n, A.shape[2])
    keep = runs * n * N <= KEPT_ELEMENTS
    kept: list[Tensor] = []
    for block in blocks:
        S_T = activations(ensemble.U[:, block], X, ensemble.activation)
        if keep:
            kept.append(S_T)
        H += torch.bmm(S_T.mT, A[:, block])
    H /= N

    scale = (ensemble.gamma / n)[:, None, None]
    # Under mixed precision these small products stay in full precision: the residual is a difference that collapse
    # makes small.
    with torch.autocast(X.device.type, enabled=False):
        r = (ensemble.gamma[:, None, None] * torch.bmm(H, ensemble.W)).sub_(Y)
        G = scale * torch.bmm(r, ensemble.W.mT)
        g_W = scale * torch.bmm(H.mT, r)

    g_A, g_U = torch.empty_like(A), torch.empty_like(ensemble.U)
    for index, block in enumerate(blocks):
        S_T = kept[index] if keep else activations(ensemble.U[:, block], X, ensemble.activation)
        g_A[:, block] = torch.bmm(S_T, G)
        delta_T = torch.bmm(A[:, block], G.mT).mul_(ensemble.activation.slope(S_T))
        g_U[:, block] = torch.bmm(delta_T, X)
    if ensemble.truncation is not None:
        g_A *= ensemble.truncation.slope(ensemble.A)
    return LossGradients(A=g_A, U=g_U, W=g_W, features=H)
