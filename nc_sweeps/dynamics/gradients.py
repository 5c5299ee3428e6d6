r"""Gradients of the loss, as in the flow (20), derived by hand.

The residual has q columns, fewer than the p features. With :math:`B = A W` and :math:`r = (\gamma/n)(F - Y)`, in the
mean-field scaling (for the particles, N times the plain gradient):

.. math::
    F = \gamma\, S B / N, \qquad Z = S^\top r, \qquad
    g_A = Z W^\top, \qquad g_U = \big((B r^\top) \circ \sigma'(X U^\top)^\top\big) X, \qquad g_W = A^\top Z / N,

which is (20), since :math:`r W^\top = G` and :math:`H = S A / N`. A sample and a particle take :math:`2d + 3q`
multiply-adds, whatever p is.

With a truncation :math:`\tau_R` of the second layer, :math:`\tau_R(A)` takes the place of A, and :math:`g_A` gains the
factor :math:`\tau_R'(A)`.

Weight decay is not included: each integrator treats it in its own way.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nc_sweeps import kernels
from nc_sweeps.models.first_layer import FirstLayer
from nc_sweeps.models.mean_field import MeanFieldNetworks
from nc_sweeps.models.truncation import limits


@dataclass(frozen=True)
class LossGradients:
    r"""Gradients of :math:`L_n = \|F - Y\|_F^2 / (2n)` in the head and in the particles of this process."""

    A: Float[Tensor, "run own p"]
    U: Float[Tensor, "run own d"]
    W: Float[Tensor, "run p q"]


def compute_loss_gradients(
    networks: MeanFieldNetworks, X: Float[Tensor, "run n d"], Y: Float[Tensor, "run n q"]
) -> LossGradients:
    r"""Return the mean-field gradients of :math:`L_n` at the current state."""
    gamma = networks.gamma[:, None, None]
    first_layer = networks.first_layer(X)
    F = gamma * first_layer.particle_mean(_second_layer_times_head(networks))
    g_A, g_U, Z = _particle_gradients(networks, first_layer, (gamma / X.shape[1]) * (F - Y))
    with _disable_autocast(Z):
        g_W = networks.shard.mean(torch.bmm(networks.second_layer.mT, Z))
    return LossGradients(A=g_A, U=g_U, W=g_W)


@dataclass(frozen=True)
class Linearisation:
    r"""Features, gradients of :math:`L_n`, and the part of the gradient that the features see."""

    H: Float[Tensor, "run n p"]
    A: Float[Tensor, "run own p"]
    U: Float[Tensor, "run own d"]
    #: :math:`R = \mathrm{mean}_j \sigma(Xu_j)\nabla_{a_j}^\top`, weight decay included.
    R: Float[Tensor, "run n p"]


def linearise(
    networks: MeanFieldNetworks,
    X: Float[Tensor, "run n d"],
    Y: Float[Tensor, "run n q"],
    decay: Float[Tensor, "run"],
) -> Linearisation:
    r"""Return all that a measurement needs from the training set.

    Compiled code forms the activations once if they are few.

    Args:
        decay: :math:`\lambda_\rho`.
    """
    # Compiled code finds the residual between its two passes, from the particles of this process alone.
    if networks.shard.is_whole and kernels.supports(networks.activation.name, networks.U):
        return Linearisation(
            *kernels.linearise(
                networks.U,
                networks.A,
                networks.W,
                X,
                Y,
                activation=networks.activation.name,
                gamma=networks.gamma,
                truncation=limits(networks.truncation),
                decay=decay,
            )
        )
    first_layer = networks.first_layer(X)
    H = first_layer.particle_mean(networks.second_layer)
    gamma = networks.gamma.double()[:, None, None]
    residual = gamma / X.shape[1] * (gamma * (H.double() @ networks.W.double()) - Y)
    g_A, g_U, _ = _particle_gradients(networks, first_layer, residual.to(X.dtype))
    R = first_layer.particle_mean(g_A + decay[:, None, None].to(X) * networks.A)
    return Linearisation(H, g_A, g_U, R)


def _particle_gradients(
    networks: MeanFieldNetworks, first_layer: FirstLayer, r: Float[Tensor, "run n q"]
) -> tuple[Float[Tensor, "run own p"], Float[Tensor, "run own d"], Float[Tensor, "run own q"]]:
    r"""Return the mean-field gradients :math:`g_A, g_U` from :math:`r = (\gamma/n)(F - Y)`, and Z."""
    g_U, Z = first_layer.sample_sums(_second_layer_times_head(networks), r)
    with _disable_autocast(r):
        g_A = torch.bmm(Z, networks.W.mT)
    if networks.truncation is not None:
        g_A *= networks.truncation.slope(networks.A)
    return g_A, g_U, Z


def _second_layer_times_head(networks: MeanFieldNetworks) -> Float[Tensor, "run own q"]:
    r"""Return :math:`B = \tau_R(A) W`, the second layer times the head."""
    with _disable_autocast(networks.W):
        return torch.bmm(networks.second_layer, networks.W)


def _disable_autocast(like: Tensor) -> torch.autocast:
    """Return a context without mixed precision, for the small products with a residual that collapse makes small."""
    return torch.autocast(like.device.type, enabled=False)
