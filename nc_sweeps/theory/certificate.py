r"""A sharp certificate of collapse: an upper bound of NC1 for **every** state, stationary or not, of any width.

Let :math:`F = \gamma H W`, :math:`r = F - Y`, :math:`B = W(W^\top W)^{-1}` and :math:`P = B W^\top` the projector onto
the range of W. Splitting the features by P is an identity, with orthogonal last two parts:

.. math::
    H = \gamma^{-1} Y B^\top + \gamma^{-1} r B^\top + H(I - P).

The first part is collapsed. So NC1 can only come from what the head sees of the residual, and from what the head cannot
see at all. With :math:`Q = \tilde H (I - P)` and :math:`T = \gamma^{-2}\|\tilde Y B^\top\|_F^2` define

.. math::
    \ell = \|\tilde r B^\top\|_F^2 / \|\tilde Y B^\top\|_F^2, \qquad \varrho = \|Q_w\|_F^2 / T.

Dividing :math:`\ell = \ell_w + \ell_b` in the worst way between and within classes bounds

.. math::
    \mathrm{NC1} \le \max_{\ell_b \le \ell}
    \frac{\ell - \ell_b + \varrho}{\ell - \ell_b + \varrho + (1 - \sqrt{\ell_b})^2}

and the maximum is attained: at :math:`\sqrt{\ell_b} = \ell + \varrho` where allowed, else at :math:`\ell_b = \ell`.

A head bias, :math:`F = \gamma H W + 1 b^\top`, changes none of this if r holds it. But W then tends to rank q − 1 and B
grows without bound; :func:`centred_head_bound` stays useful.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nc_sweeps.metrics.centring import centred, square_norm, within_class


@dataclass(frozen=True)
class Certificate:
    r"""The certificate of a state; every tensor has one entry a run.

    Args:
        nc1_bound: upper bound of NC1 in [0, 1].
        loss_term: :math:`\ell`.
        range_term: :math:`\varrho`.
        closed_form: upper bound of NC1 from the loss, the gradient and the extreme singular values of W alone.
        angle: :math:`1 - \langle\tilde H, \tilde Y B^\top\rangle^2 / (\|\tilde H\|^2 \|\tilde Y B^\top\|^2)`, the
            squared sine between the features and the collapsed target; another upper bound of NC1.
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
    r"""Bound NC1 of the features H by what the head does with them.

    Args:
        H: features, float64.
        W: linear head; rank deficient heads are allowed.
        Y: one-hot labels, balanced or not.
        gamma: output scale.
        bias: b of the head. With one, ``nc1_bound`` is the smaller of the two bounds that hold.
    """
    scale = gamma[..., None, None]
    r = scale * (H @ W) - Y + (0.0 if bias is None else bias[..., None, :])
    B = torch.linalg.pinv(W).mT
    features = centred(H)
    unseen = square_norm(within_class(features - (features @ W) @ B.mT, Y))
    target = centred(Y) @ B.mT
    T = square_norm(target)  # γ² times the T of the text: γ² moves to the numerator of ϱ

    loss_term = square_norm(centred(r) @ B.mT) / T
    range_term = gamma.square() * unseen / T
    cosine_squared = (features * target).sum(dim=(-2, -1)).square() / (square_norm(features) * T)
    nc1_bound = worst_nc1(loss_term, range_term)
    if bias is not None:
        nc1_bound = torch.minimum(nc1_bound, centred_head_bound(H, W, r, Y, gamma))
    return Certificate(
        nc1_bound=nc1_bound,
        loss_term=loss_term,
        range_term=range_term,
        closed_form=_closed_form(unseen, W, r, Y, gamma),
        angle=1.0 - cosine_squared,
    )


def worst_nc1(loss_term: Float[Tensor, "*run"], range_term: Float[Tensor, "*run"]) -> Float[Tensor, "*run"]:
    r"""Largest NC1 that :math:`\ell` and :math:`\varrho` allow.

    .. math::
        1 \text{ if } \ell \ge 1; \quad
        \ell + \varrho \text{ if } (\ell + \varrho)^2 \le \ell < 1; \quad
        \frac{\varrho}{\varrho + (1 - \sqrt\ell)^2} \text{ otherwise.}
    """
    total = loss_term + range_term
    spent_between = range_term / (range_term + (1.0 - loss_term.sqrt()).square())
    bound = torch.where(total.square() <= loss_term, total, spent_between)
    # Written so that an undefined ℓ (the head maps all classes to one point) leaves the bound at 1, which is true.
    return torch.where(loss_term < 1.0, bound, torch.ones_like(bound))


def centred_head_bound(
    H: Float[Tensor, "*run n p"],
    W: Float[Tensor, "*run p q"],
    r: Float[Tensor, "*run n q"],
    Y: Float[Tensor, "*run n q"],
    gamma: Float[Tensor, "*run"],
) -> Float[Tensor, "*run"]:
    r"""Upper bound of NC1 that a head of rank q − 1 does not spoil. With :math:`\bar W = W(I - 11^\top/q)`,
    :math:`\bar C = \bar W^+` and :math:`\bar P = \bar W \bar C`,

    .. math::
        \mathrm{NC1} \le \frac{\gamma^{-2}\|\tilde r \bar C\|_F^2 + \|\tilde H(I - \bar P)\|_F^2}
        {\gamma^{-2}\|\tilde Y \bar C\|_F^2},

    valid with a bias and without; 1 where the right-hand side is larger or undefined.

    Args:
        H, W, Y, gamma: as in :func:`certificate`.
        r: residual F − Y, with the bias.
    """
    centred_head = W - W.mean(dim=-1, keepdim=True)
    C = _pinv_of_rank(centred_head, W.shape[-1] - 1)
    hidden = centred(H)
    hidden = hidden - (hidden @ centred_head) @ C
    numerator = square_norm(centred(r) @ C) + gamma.square() * square_norm(hidden)
    bound = numerator / square_norm(centred(Y) @ C)
    return torch.where(bound < 1.0, bound, 1.0)


def _pinv_of_rank(Z: Float[Tensor, "*run p q"], rank: int) -> Float[Tensor, "*run q p"]:
    """Pseudo-inverse of a matrix whose rank is known: rounding cannot pass for a small singular value."""
    U, S, Vh = torch.linalg.svd(Z, full_matrices=False)
    inverse: Tensor = Vh[..., :rank, :].mT / S[..., None, :rank] @ U[..., :rank].mT
    return inverse


def _closed_form(
    unseen: Float[Tensor, "*run"],
    W: Float[Tensor, "*run p q"],
    r: Float[Tensor, "*run n q"],
    Y: Float[Tensor, "*run n q"],
    gamma: Float[Tensor, "*run"],
) -> Float[Tensor, "*run"]:
    r"""With :math:`\kappa = \sigma_{max}/\sigma_{min}`, :math:`c = n/(n - \sum_k n_k^2/n)`, the smallest of 1,

    .. math::
        c\,[2\kappa^2 L_n + \tfrac{\gamma^2\sigma_{max}^2}{n}\|R_w(I-P)\|_F^2/\lambda_\rho^2]
        \quad\text{and}\quad
        \frac{A}{A + (1 - \sqrt{\bar\ell})^2},\quad
        A = c\,[2\kappa^2 L_w + \tfrac{\gamma^2\sigma_{max}^2}{n}\|R_w(I-P)\|_F^2/\lambda_\rho^2],\
        \bar\ell = c\,\kappa^2\|r_b\|_F^2/n < 1.

    R = λ_ρH + (γ/n)K r Wᵀ is the second-layer gradient contracted with the features; since Wᵀ(I − P) = 0, the
    gradient's part R(I − P)/λ_ρ is H(I − P) itself, which needs no division by λ_ρ: ``unseen`` is ‖Q_w‖².
    """
    n = Y.shape[-2]
    singular = torch.linalg.svdvals(W)
    largest, smallest = singular[..., 0], singular[..., -1]
    kappa_squared = (largest / smallest).square()
    c = n / (n - Y.sum(dim=-2).square().sum(dim=-1) / n)
    hidden = gamma.square() * largest.square() / n * unseen
    r_w = within_class(r, Y)

    simple = c * (kappa_squared * square_norm(r) / n + hidden)
    A = c * (kappa_squared * square_norm(r_w) / n + hidden)
    between = c * kappa_squared * square_norm(centred(r) - r_w) / n
    split = torch.where(between < 1.0, A / (A + (1.0 - between.sqrt()).square()), 1.0)
    vacuous = smallest == 0.0
    return torch.where(vacuous, 1.0, torch.minimum(simple, split).clamp(max=1.0))
