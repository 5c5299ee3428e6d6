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

from nc_sweeps import kernels
from nc_sweeps.models.first_layer import FirstLayer
from nc_sweeps.models.mean_field import MeanFieldEnsemble
from nc_sweeps.models.truncation import limits


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
    g_A, g_U, Z = _of_particles(ensemble, first_layer, (gamma / X.shape[1]) * (F - Y))
    with _full_precision(Z):
        g_W = ensemble.shard.mean(torch.bmm(ensemble.second_layer.mT, Z))
    return LossGradients(A=g_A, U=g_U, W=g_W)


@dataclass(frozen=True)
class Linearisation:
    r"""Features, gradients of :math:`L_n`, and what of the gradient the features see."""

    H: Float[Tensor, "run n p"]
    A: Float[Tensor, "run own p"]
    U: Float[Tensor, "run own d"]
    #: :math:`R = \mathrm{mean}_j \sigma(Xu_j)\nabla_{a_j}^\top`, weight decay included.
    R: Float[Tensor, "run n p"]


def linearisation(
    ensemble: MeanFieldEnsemble,
    X: Float[Tensor, "run n d"],
    Y: Float[Tensor, "run n q"],
    decay: Float[Tensor, "run"],
) -> Linearisation:
    r"""All that a measurement asks of the training set; compiled, from one set of activations while they are few.

    Args:
        decay: :math:`\lambda_\rho`.
    """
    # Compiled, the residual is found between the two passes, from the particles that are here.
    if ensemble.shard.is_whole and kernels.supports(ensemble.activation.name, ensemble.U):
        return Linearisation(
            *kernels.linearise(
                ensemble.U,
                ensemble.A,
                ensemble.W,
                X,
                Y,
                activation=ensemble.activation.name,
                gamma=ensemble.gamma,
                truncation=limits(ensemble.truncation),
                decay=decay,
            )
        )
    first_layer = ensemble.first_layer(X)
    H = first_layer.particle_mean(ensemble.second_layer)
    gamma = ensemble.gamma.double()[:, None, None]
    residual = gamma / X.shape[1] * (gamma * (H.double() @ ensemble.W.double()) - Y)
    g_A, g_U, _ = _of_particles(ensemble, first_layer, residual.to(X.dtype))
    R = first_layer.particle_mean(g_A + decay[:, None, None].to(X) * ensemble.A)
    return Linearisation(H, g_A, g_U, R)


def _of_particles(
    ensemble: MeanFieldEnsemble, first_layer: FirstLayer, r: Float[Tensor, "run n q"]
) -> tuple[Float[Tensor, "run own p"], Float[Tensor, "run own d"], Float[Tensor, "run own q"]]:
    r"""Mean-field gradients :math:`g_A, g_U` from :math:`r = (\gamma/n)(F - Y)`, and Z."""
    g_U, Z = first_layer.sample_sums(_columns(ensemble), r)
    with _full_precision(r):
        g_A = torch.bmm(Z, ensemble.W.mT)
    if ensemble.truncation is not None:
        g_A *= ensemble.truncation.slope(ensemble.A)
    return g_A, g_U, Z


def _columns(ensemble: MeanFieldEnsemble) -> Float[Tensor, "run own q"]:
    """B."""
    with _full_precision(ensemble.W):
        return torch.bmm(ensemble.second_layer, ensemble.W)


def _full_precision(like: Tensor) -> torch.autocast:
    """Under mixed precision the small products stay exact: they carry a residual that collapse makes small."""
    return torch.autocast(like.device.type, enabled=False)
