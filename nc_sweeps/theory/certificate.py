r"""A sharp certificate of collapse: an upper bound of NC1 for **every** state, stationary or not, of any width.

Let :math:`F = \gamma H W`, :math:`r = F - Y`, :math:`B = W(W^\top W)^{-1}` and :math:`P = B W^\top` the projector onto
the range of W. Splitting the features by P is an identity, with orthogonal last two parts:

.. math::
    H = \gamma^{-1} Y B^\top + \gamma^{-1} r B^\top + H(I - P).

The first part is collapsed. So NC1 can only come from the part of the residual that the head sees, and from the part of
the features that it does not see. With :math:`Q = \tilde H (I - P)` and :math:`T = \gamma^{-2}\|\tilde Y B^\top\|_F^2`
define

.. math::
    \ell = \|\tilde r B^\top\|_F^2 / \|\tilde Y B^\top\|_F^2, \qquad \varrho = \|Q_w\|_F^2 / T.

The worst way to divide :math:`\ell = \ell_w + \ell_b` within and between classes gives the bound

.. math::
    \mathrm{NC1} \le \max_{\ell_b \le \ell}
    \frac{\ell - \ell_b + \varrho}{\ell - \ell_b + \varrho + (1 - \sqrt{\ell_b})^2}

The maximum is attained at :math:`\sqrt{\ell_b} = \ell + \varrho` if that is allowed, else at :math:`\ell_b = \ell`.

A head bias, :math:`F = \gamma H W + 1 b^\top`, changes none of this if r includes it. But W then tends to rank q − 1,
and B grows without bound; :func:`centred_head_bound` stays useful.

The certificate uses nothing but class statistics of H and r, so that one pass over any number of samples is enough:
:func:`certificate_of_statistics`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nc_sweeps.metrics.centring import square_norm
from nc_sweeps.metrics.statistics import ClassStatistics, class_statistics


@dataclass(frozen=True)
class Certificate:
    r"""The certificate of a state; every tensor has one entry for each run.

    Args:
        nc1_bound: upper bound of NC1 in [0, 1].
        loss_term: :math:`\ell`.
        range_term: :math:`\varrho`.
        closed_form: upper bound of NC1 from the loss, the gradient and the extreme singular values of W alone.
        angle: :math:`1 - \langle\tilde H, \tilde Y B^\top\rangle^2 / (\|\tilde H\|^2 \|\tilde Y B^\top\|^2)`, the
            squared sine of the angle between the features and the collapsed target; another upper bound of NC1.
    """

    nc1_bound: Float[Tensor, "*run"]
    loss_term: Float[Tensor, "*run"]
    range_term: Float[Tensor, "*run"]
    closed_form: Float[Tensor, "*run"]
    angle: Float[Tensor, "*run"]


def certificate(
    H: Float[Tensor, "*run n p"],
    W: Float[Tensor, "*run p q"],
    Y: Float[Tensor, "*run n q"],
    gamma: Float[Tensor, "*run"],
    bias: Float[Tensor, "*run q"] | None = None,
) -> Certificate:
    r"""Bound NC1 of the features H by what the head makes of them.

    Args:
        H: features, float64.
        W: linear head; its rank may be deficient.
        Y: one-hot labels, balanced or not.
        gamma: output scale.
        bias: b of the head. With one, ``nc1_bound`` is the smaller of the two bounds that hold.
    """
    r = gamma[..., None, None] * (H @ W) - Y + (0.0 if bias is None else bias[..., None, :])
    return certificate_of_statistics(
        class_statistics(H, Y), class_statistics(r, Y), W, gamma, has_bias=bias is not None
    )


def certificate_of_statistics(
    features: ClassStatistics,
    residuals: ClassStatistics,
    W: Float[Tensor, "*run p q"],
    gamma: Float[Tensor, "*run"],
    *,
    has_bias: bool = False,
) -> Certificate:
    r"""Return the certificate of a state from class statistics of its samples.

    Args:
        features: statistics of H.
        residuals: statistics of r = F − Y, the bias of the head included.
        W, gamma: as in :func:`certificate`, float64.
        has_bias: whether the head has a bias; ``nc1_bound`` is then the smaller of the two bounds that hold.
    """
    counts = features.counts.unsqueeze(-1)
    B = torch.linalg.pinv(W).mT
    unseen = _trace_beyond(features.scatter, W, B)
    target = _targets(features.counts, B.mT)
    T = (counts * target.square()).sum(dim=(-2, -1))  # γ² times the T of the text: γ² moves to the numerator of ϱ

    loss_term = _square_norm_through(residuals, B.mT) / T
    range_term = gamma.square() * unseen / T
    deviations = features.deviations
    inner = (counts * deviations * target).sum(dim=(-2, -1))
    variation = features.sums_of_squares.sum(dim=-1) + (counts * deviations.square()).sum(dim=(-2, -1))
    nc1_bound = worst_nc1(loss_term, range_term)
    if has_bias:
        nc1_bound = torch.minimum(nc1_bound, centred_head_bound(features, residuals, W, gamma))
    return Certificate(
        nc1_bound=nc1_bound,
        loss_term=loss_term,
        range_term=range_term,
        closed_form=_closed_form(unseen, W, residuals, gamma),
        angle=1.0 - inner.square() / (variation * T),
    )


def worst_nc1(loss_term: Float[Tensor, "*run"], range_term: Float[Tensor, "*run"]) -> Float[Tensor, "*run"]:
    r"""Return the largest NC1 that :math:`\ell` and :math:`\varrho` allow:

    .. math::
        1 \text{ if } \ell \ge 1; \quad
        \ell + \varrho \text{ if } (\ell + \varrho)^2 \le \ell < 1; \quad
        \frac{\varrho}{\varrho + (1 - \sqrt\ell)^2} \text{ otherwise.}
    """
    total = loss_term + range_term
    spent_between = range_term / (range_term + (1.0 - loss_term.sqrt()).square())
    bound = torch.where(total.square() <= loss_term, total, spent_between)
    # If ℓ is undefined (the head maps all classes to one point), the comparison is false and the bound 1, which holds.
    return torch.where(loss_term < 1.0, bound, torch.ones_like(bound))


def centred_head_bound(
    features: ClassStatistics,
    residuals: ClassStatistics,
    W: Float[Tensor, "*run p q"],
    gamma: Float[Tensor, "*run"],
) -> Float[Tensor, "*run"]:
    r"""Return an upper bound of NC1 that stays useful for a head of rank q − 1. With :math:`\bar W = W(I - 11^\top/q)`,
    :math:`\bar C = \bar W^+` and :math:`\bar P = \bar W \bar C`,

    .. math::
        \mathrm{NC1} \le \frac{\gamma^{-2}\|\tilde r \bar C\|_F^2 + \|\tilde H(I - \bar P)\|_F^2}
        {\gamma^{-2}\|\tilde Y \bar C\|_F^2},

    with or without a bias. The bound is 1 if the right-hand side is larger or undefined.

    Args:
        features, residuals, W, gamma: as in :func:`certificate_of_statistics`.
    """
    counts = features.counts.unsqueeze(-1)
    centred_head = W - W.mean(dim=-1, keepdim=True)
    C = _pinv_of_rank(centred_head, W.shape[-1] - 1)
    deviations = features.deviations
    hidden_means = deviations - (deviations @ centred_head) @ C
    hidden = _trace_beyond(features.scatter, centred_head, C.mT) + (counts * hidden_means.square()).sum(dim=(-2, -1))
    numerator = _square_norm_through(residuals, C) + gamma.square() * hidden
    bound = numerator / (counts * _targets(features.counts, C).square()).sum(dim=(-2, -1))
    return torch.where(bound < 1.0, bound, 1.0)


def _targets(counts: Float[Tensor, "*run q"], Z: Float[Tensor, "*run q k"]) -> Float[Tensor, "*run q k"]:
    r"""Return the rows of :math:`\tilde Y Z`, one for each class."""
    weights = counts / counts.sum(dim=-1, keepdim=True)
    return Z - (weights.unsqueeze(-1) * Z).sum(dim=-2, keepdim=True)


def _square_norm_through(residuals: ClassStatistics, Z: Float[Tensor, "*run q k"]) -> Float[Tensor, "*run"]:
    r"""Return :math:`\|\tilde r Z\|_F^2`."""
    within = (residuals.scatter @ Z * Z).sum(dim=(-2, -1)).clamp(min=0.0)
    between = (residuals.deviations @ Z).square()
    return within + (residuals.counts.unsqueeze(-1) * between).sum(dim=(-2, -1))


def _trace_beyond(
    scatter: Float[Tensor, "*run p p"], W: Float[Tensor, "*run p q"], B: Float[Tensor, "*run p q"]
) -> Float[Tensor, "*run"]:
    r"""Return :math:`\|H_w(I - WB^\top)\|_F^2` from :math:`H_w^\top H_w`.

    It is found as a difference, right to the rounding of :math:`\|H_w\|_F^2`, hence of the NC1 that is bounded.
    """
    right = scatter - (scatter @ W) @ B.mT
    both = right - B @ (W.mT @ right)
    return both.diagonal(dim1=-2, dim2=-1).sum(dim=-1).clamp(min=0.0)


def _pinv_of_rank(Z: Float[Tensor, "*run p q"], rank: int) -> Float[Tensor, "*run q p"]:
    """Return the pseudo-inverse of a matrix of known rank: rounding cannot pass for a small singular value."""
    U, S, Vh = torch.linalg.svd(Z, full_matrices=False)
    inverse: Tensor = Vh[..., :rank, :].mT / S[..., None, :rank] @ U[..., :rank].mT
    return inverse


def _closed_form(
    unseen: Float[Tensor, "*run"],
    W: Float[Tensor, "*run p q"],
    residuals: ClassStatistics,
    gamma: Float[Tensor, "*run"],
) -> Float[Tensor, "*run"]:
    r"""Return the closed form. With :math:`\kappa = \sigma_{max}/\sigma_{min}`, :math:`c = n/(n - \sum_k n_k^2/n)`, it
    is the smallest of 1,

    .. math::
        c\,[2\kappa^2 L_n + \tfrac{\gamma^2\sigma_{max}^2}{n}\|R_w(I-P)\|_F^2/\lambda_\rho^2]
        \quad\text{and}\quad
        \frac{A}{A + (1 - \sqrt{\bar\ell})^2},\quad
        A = c\,[2\kappa^2 L_w + \tfrac{\gamma^2\sigma_{max}^2}{n}\|R_w(I-P)\|_F^2/\lambda_\rho^2],\
        \bar\ell = c\,\kappa^2\|r_b\|_F^2/n < 1.

    R = λ_ρH + (γ/n)K r Wᵀ is the second-layer gradient contracted with the features; since Wᵀ(I − P) = 0, the
    gradient's part R(I − P)/λ_ρ is H(I − P) itself, which needs no division by λ_ρ: ``unseen`` is ‖Q_w‖².
    """
    counts = residuals.counts
    n = counts.sum(dim=-1)
    singular = torch.linalg.svdvals(W)
    largest, smallest = singular[..., 0], singular[..., -1]
    kappa_squared = (largest / smallest).square()
    c = n / (n - counts.square().sum(dim=-1) / n)
    hidden = gamma.square() * largest.square() / n * unseen
    within = residuals.sums_of_squares.sum(dim=-1)
    total = within + (counts.unsqueeze(-1) * residuals.means.square()).sum(dim=(-2, -1))

    simple = c * (kappa_squared * total / n + hidden)
    A = c * (kappa_squared * within / n + hidden)
    between = c * kappa_squared * square_norm(counts.sqrt().unsqueeze(-1) * residuals.deviations) / n
    split = torch.where(between < 1.0, A / (A + (1.0 - between.sqrt()).square()), 1.0)
    vacuous = smallest == 0.0
    return torch.where(vacuous, 1.0, torch.minimum(simple, split).clamp(max=1.0))
