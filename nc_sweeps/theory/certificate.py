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
and B grows without bound. A second bound, which holds with a bias and without, stays useful there: with
:math:`\bar W = W(I - 11^\top/q)`, :math:`\bar C = \bar W^+` and :math:`\bar P = \bar W \bar C`,

.. math::
    \mathrm{NC1} \le \frac{\gamma^{-2}\|\tilde r \bar C\|_F^2 + \|\tilde H(I - \bar P)\|_F^2}
    {\gamma^{-2}\|\tilde Y \bar C\|_F^2}.

**In floating point.** Both bounds hold for the pseudo-inverse truncated at *any* rank: what is cut moves from ℓ to ϱ.
The certificate evaluates them at every rank, adds to each numerator what rounding can have taken from it
(:func:`_by_rank`), and takes the smallest. So it holds for ill-conditioned and singular heads too: a direction whose
singular value is so small that rounding drowns it makes the bounds that use it large, and those that do without it
remain.

The certificate uses nothing but class statistics of H and r, so that one pass over any number of samples is enough:
:func:`certificate_of_statistics`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nc_sweeps.metrics.centring import square_norm
from nc_sweeps.metrics.statistics import ClassStatistics, class_statistics


@dataclass(frozen=True)
class Certificate:
    r"""The certificate of a state; every tensor has one entry for each run.

    Args:
        nc1_bound: upper bound of NC1 in [0, 1].
        loss_term, range_term: :math:`\ell` and :math:`\varrho` without the directions whose singular values are below
            1e-6 of the largest.
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
        W: linear head, of any rank and condition.
        Y: one-hot labels, balanced or not.
        gamma: output scale.
        bias: b of the head; None: it has none.
    """
    r = gamma[..., None, None] * (H @ W) - Y + (0.0 if bias is None else bias[..., None, :])
    return certificate_of_statistics(class_statistics(H, Y), class_statistics(r, Y), W, gamma)


def certificate_of_statistics(
    features: ClassStatistics,
    residuals: ClassStatistics,
    W: Float[Tensor, "*run p q"],
    gamma: Float[Tensor, "*run"],
) -> Certificate:
    r"""Return the certificate of the samples that two statistics describe.

    Args:
        features: statistics of H.
        residuals: statistics of r = F − Y, the bias of the head included, with F computed from H in float64: scores in
            a lower precision are not linear in the features.
        W, gamma: as in :func:`certificate`, float64.
    """
    by_rank = _by_rank(features, residuals, W, gamma, torch.eye(W.shape[-1], dtype=W.dtype, device=W.device))
    bound = worst_nc1(by_rank.safe_seen / by_rank.safe_target, by_rank.safe_unseen / by_rank.safe_target).amin(dim=-1)
    rank = _numerical_rank(by_rank.singular)
    return Certificate(
        nc1_bound=torch.minimum(bound, centred_head_bound(features, residuals, W, gamma)),
        loss_term=_at(by_rank.seen / by_rank.target, rank),
        range_term=_at(by_rank.unseen / by_rank.target, rank),
        closed_form=_closed_form(by_rank, residuals),
        angle=_squared_sine(features, _truncated_pinv(W)),
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
    r"""Return the second bound of NC1, which a head of rank q − 1 does not spoil; 1 where it says nothing.

    Args:
        features, residuals, W, gamma: as in :func:`certificate_of_statistics`.
    """
    by_rank = _by_rank(features, residuals, W, gamma, _contrasts(W))
    bounds = (by_rank.safe_seen + by_rank.safe_unseen + by_rank.safe_unseen_means) / by_rank.safe_target
    return torch.where(bounds < 1.0, bounds, 1.0).amin(dim=-1)


#: Singular values of a head below this part of the largest are cut where one rank has to be chosen.
_CUT = 1e-6


@dataclass(frozen=True)
class _ByRank:
    r"""The parts of the bounds for the pseudo-inverse truncated at ranks 1, 2, …, one entry a rank.

    Args:
        singular: singular values :math:`s_1 \ge s_2 \ge …` of the matrix.
        seen: :math:`\|\tilde r B^\top\|_F^2`.
        target: :math:`\|\tilde Y B^\top\|_F^2`.
        unseen: :math:`\gamma^2\|Q_w\|_F^2`.
        safe_seen, safe_target, safe_unseen: the same with what rounding can have done to them: numerators are not
            smaller, the denominator is not larger, than in exact arithmetic.
        safe_unseen_means: what :math:`\gamma^2\|\tilde H(I - P)\|_F^2` is more than ``safe_unseen``.
        residual_error: what rounding can have done to :math:`\|r\|_F`, the same at every rank.
    """

    singular: Float[Tensor, "*run k"]
    seen: Float[Tensor, "*run k"]
    target: Float[Tensor, "*run k"]
    unseen: Float[Tensor, "*run k"]
    safe_seen: Float[Tensor, "*run k"]
    safe_target: Float[Tensor, "*run k"]
    safe_unseen: Float[Tensor, "*run k"]
    safe_unseen_means: Float[Tensor, "*run k"]
    residual_error: Float[Tensor, "*run 1"]


def _by_rank(
    features: ClassStatistics,
    residuals: ClassStatistics,
    W: Float[Tensor, "*run p q"],
    gamma: Float[Tensor, "*run"],
    basis: Float[Tensor, "q k"],
) -> _ByRank:
    r"""Evaluate the parts of the bounds at every rank of the pseudo-inverse of :math:`W E E^\top`, E the basis.

    The identity makes this W, the contrasts of classes make it :math:`\bar W`. With the singular value decomposition
    :math:`W E = U S (E^\top V)^\top` every part is a sum over the directions that are kept, or over those that are cut;
    no part is a difference.

    Rounding, with u = 2⁻⁵³ and n, p, q the numbers that are summed: a scatter matrix is known to
    :math:`(n + p)u` of its trace, so that its quadratic forms along a kept direction are known to :math:`(n + p)u`
    times the trace over :math:`s^2`; the residual r itself to :math:`(p + 2)u(\gamma\|H\|_F\|W\|_F + \sqrt n)`, which
    :math:`B` multiplies by 1/s; entries of :math:`V` to a few u; and :math:`W V S^{-1} = U` to
    :math:`(p + q)u s_1/s`, by the backward stability of the decomposition.
    """
    u = torch.finfo(W.dtype).eps / 2
    counts = features.counts.unsqueeze(-1)
    n = features.counts.sum(dim=-1, keepdim=True)
    p, q = W.shape[-2:]
    gamma_squared = gamma.square().unsqueeze(-1)
    U, S, Vh = torch.linalg.svd(W @ basis, full_matrices=False)
    V = basis @ Vh.mT
    inverse = 1.0 / S.square()  # infinite where there is no singular value: ranks that need it say nothing

    within = (residuals.scatter @ V * V).sum(dim=-2).clamp(min=0.0)
    between = (counts * (residuals.deviations @ V).square()).sum(dim=-2)
    seen = ((within + between) * inverse).cumsum(dim=-1)
    size = residuals.sums_of_squares.sum(dim=-1, keepdim=True) + (counts * residuals.deviations.square()).sum(
        dim=(-2, -1)
    ).unsqueeze(-1)
    lengths = features.sums_of_squares.sum(dim=-1, keepdim=True) + (counts * features.means.square()).sum(
        dim=(-2, -1)
    ).unsqueeze(-1)
    gamma_H = (gamma_squared * lengths).sqrt()
    residual_error = (p + q + 2) * u * (gamma_H * square_norm(W).sqrt().unsqueeze(-1) + n.sqrt())
    safe_seen = _enlarge(seen + (n + p) * u * size * inverse, residual_error / S)

    targets = _targets(features.counts, V).abs()
    target = ((counts * targets.square()).sum(dim=-2) * inverse).cumsum(dim=-1)
    safe_target = ((counts * (targets - 2 * q * u).clamp(min=0.0).square()).sum(dim=-2) * inverse).cumsum(dim=-1)

    beyond = _trace_beyond(features.scatter, U).unsqueeze(-1)
    unseen = gamma_squared * (beyond + _cut_sum((features.scatter @ U * U).sum(dim=-2).clamp(min=0.0)))
    rest = features.deviations - (features.deviations @ U) @ U.mT
    beyond_means = (counts * rest.square()).sum(dim=(-2, -1)).unsqueeze(-1)
    unseen_means = gamma_squared * (beyond_means + _cut_sum((counts * (features.deviations @ U).square()).sum(dim=-2)))
    scatter_error = gamma_squared * (n + p) * u * features.sums_of_squares.sum(dim=-1, keepdim=True)
    means_error = (p + q) * u * gamma_H
    return _ByRank(
        singular=S,
        seen=seen,
        target=target,
        unseen=unseen,
        safe_seen=safe_seen,
        safe_target=safe_target,
        safe_unseen=unseen + scatter_error,
        safe_unseen_means=_enlarge(unseen_means, means_error),
        residual_error=residual_error,
    )


def _enlarge(square: Float[Tensor, "*shape"], error: Float[Tensor, "*#shape"]) -> Float[Tensor, "*shape"]:
    """Bound the square of a length that is known to an error; differentiable at 0."""
    return ((square + error.square()).sqrt() + error).square()


def _contrasts(W: Float[Tensor, "*run p q"]) -> Float[Tensor, "q k"]:
    """Return an orthonormal basis of the vectors over classes whose entries sum to 0, of which there are q − 1."""
    q = W.shape[-1]
    identity = torch.eye(q, dtype=W.dtype, device=W.device)
    basis: Tensor = torch.linalg.qr(torch.cat([torch.ones_like(identity[:, :1]), identity[:, 1:]], dim=1)).Q
    return basis[:, 1:]


def _cut_sum(parts: Float[Tensor, "*run k"]) -> Float[Tensor, "*run k"]:
    """Sum, for every rank, over the directions that it cuts."""
    return torch.nn.functional.pad(parts[..., 1:].flip(-1).cumsum(dim=-1).flip(-1), (0, 1))


def _numerical_rank(singular: Float[Tensor, "*run k"]) -> Int[Tensor, "*run"]:
    """Number of singular values that are not cut, at least one."""
    return (singular > _CUT * singular[..., :1]).sum(dim=-1).clamp(min=1)


def _at(by_rank: Float[Tensor, "*run k"], rank: Int[Tensor, "*run"]) -> Float[Tensor, "*run"]:
    """Pick the entry of a rank."""
    return by_rank.take_along_dim(rank.unsqueeze(-1) - 1, dim=-1).squeeze(-1)


def _truncated_pinv(W: Float[Tensor, "*run p q"]) -> Float[Tensor, "*run q p"]:
    """Invert W on the directions that are not cut."""
    inverse: Tensor = torch.linalg.pinv(W, rtol=_CUT)
    return inverse


def _squared_sine(features: ClassStatistics, C: Float[Tensor, "*run q p"]) -> Float[Tensor, "*run"]:
    r"""Return :math:`\min_\alpha \|\tilde H - \alpha\tilde Y C\|_F^2 / \|\tilde H\|_F^2`, the squared sine of the angle
    between the features and a collapsed target; NaN where one of them vanishes.

    As a sum of squares it is never below NC1, not even by rounding.
    """
    counts, deviations = features.counts.unsqueeze(-1), features.deviations
    target = _targets(features.counts, C)
    size = (counts * target.square()).sum(dim=(-2, -1))
    alpha = (counts * deviations * target).sum(dim=(-2, -1)) / size
    within = features.sums_of_squares.sum(dim=-1)
    distance = (counts * (deviations - alpha[..., None, None] * target).square()).sum(dim=(-2, -1))
    variation = within + (counts * deviations.square()).sum(dim=(-2, -1))
    return (within + distance) / variation


def _targets(counts: Float[Tensor, "*run q"], Z: Float[Tensor, "*run q k"]) -> Float[Tensor, "*run q k"]:
    r"""The rows of :math:`\tilde Y Z`, one a class."""
    weights = counts / counts.sum(dim=-1, keepdim=True)
    return Z - (weights.unsqueeze(-1) * Z).sum(dim=-2, keepdim=True)


def _trace_beyond(scatter: Float[Tensor, "*run p p"], U: Float[Tensor, "*run p k"]) -> Float[Tensor, "*run"]:
    r""":math:`\|H_w(I - UU^\top)\|_F^2` from :math:`H_w^\top H_w`, for orthonormal columns U."""
    right = scatter - (scatter @ U) @ U.mT
    both = right - U @ (U.mT @ right)
    return both.diagonal(dim1=-2, dim2=-1).sum(dim=-1).clamp(min=0.0)


def _closed_form(
    by_rank: _ByRank,
    residuals: ClassStatistics,
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
    gradient's part R(I − P)/λ_ρ is H(I − P) itself, which needs no division by λ_ρ: ‖Q_w‖² takes its place. With a
    truncation of the second layer the gradient is another one and the formula holds with ‖Q_w‖² alone.
    """
    counts = residuals.counts
    n = counts.sum(dim=-1)
    largest, smallest = by_rank.singular[..., 0], by_rank.singular[..., -1]
    kappa_squared = (largest / smallest).square()
    c = n / (n - counts.square().sum(dim=-1) / n)
    hidden = largest.square() / n * by_rank.safe_unseen[..., -1]
    error = by_rank.residual_error.squeeze(-1)

    within = residuals.sums_of_squares.sum(dim=-1)
    total = within + (counts.unsqueeze(-1) * residuals.means.square()).sum(dim=(-2, -1))
    simple = c * (kappa_squared * _enlarge(total, error) / n + hidden)
    A = c * (kappa_squared * _enlarge(within, error) / n + hidden)
    between = c * kappa_squared * _enlarge(square_norm(counts.sqrt().unsqueeze(-1) * residuals.deviations), error) / n
    split = torch.where(between < 1.0, A / (A + (1.0 - between.sqrt()).square()), 1.0)
    bound = torch.minimum(simple, split).clamp(max=1.0)
    return torch.where(bound < 1.0, bound, 1.0)
