r"""Hand-derived gradients of the loss (20).

The residual has q columns, fewer than the p features. With :math:`B = A W` and :math:`r = (\gamma/n)(F - Y)`, in the
mean-field scaling (N times the plain gradient for the particles):

.. math::
    F = \gamma\, S B / N, \qquad Z = S^\top r, \qquad
    g_A = Z W^\top, \qquad g_U = \big((B r^\top) \circ \sigma'(X U^\top)^\top\big) X, \qquad g_W = A^\top Z / N,

which is (20), since :math:`r W^\top = G` and :math:`H = S A / N`, in :math:`2d + 3q` multiply-adds for a sample and a
particle, whatever p is.

With a truncation :math:`\tau_R` of the second layer A becomes :math:`\tau_R(A)`, and :math:`g_A` gains the factor
:math:`\tau_R'(A)`.

Weight decay is not included: the integrators treat it, each in its own way.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nc_sweeps.models.first_layer import FirstLayer
from nc_sweeps.models.mean_field import MeanFieldEnsemble


@dataclass(frozen=True)
class LossGradients:
    r"""Gradients of :math:`L_n = \|F - Y\|_F^2 / (2n)`, those of the particles for the ones held here."""

    A: Float[Tensor, "run own p"]
    U: Float[Tensor, "run own d"]
    W: Float[Tensor, "run p q"]


def loss_gradients(
    ensemble: MeanFieldEnsemble, X: Float[Tensor, "run n d"], Y: Float[Tensor, "run n q"]
) -> LossGradients:
    r"""Mean-field gradients of :math:`L_n` at the current state."""
    gamma = ensemble.gamma[:, None, None]
    first_layer = ensemble.first_layer(X)
    F = gamma * first_layer.particle_mean(_columns(ensemble))
    return gradients_of_residual(ensemble, first_layer, (gamma / X.shape[1]) * (F - Y))


def gradients_of_residual(
    ensemble: MeanFieldEnsemble, first_layer: FirstLayer, r: Float[Tensor, "run n q"]
) -> LossGradients:
    r"""Mean-field gradients from :math:`r = (\gamma/n)(F - Y)`."""
    g_U, Z = first_layer.sample_sums(_columns(ensemble), r)
    with _full_precision(r):
        g_A = torch.bmm(Z, ensemble.W.mT)
        g_W = ensemble.shard.mean(torch.bmm(ensemble.second_layer.mT, Z))
    if ensemble.truncation is not None:
        g_A *= ensemble.truncation.slope(ensemble.A)
    return LossGradients(A=g_A, U=g_U, W=g_W)


def _columns(ensemble: MeanFieldEnsemble) -> Float[Tensor, "run own q"]:
    """B."""
    with _full_precision(ensemble.W):
        return torch.bmm(ensemble.second_layer, ensemble.W)


def _full_precision(like: Tensor) -> torch.autocast:
    """Under mixed precision the small products stay exact: they carry a residual that collapse makes small."""
    return torch.autocast(like.device.type, enabled=False)
