r"""The paper's own statements as numbers, for comparison with the certificate: Theorem 4.2, Corollary 4.4, Lemma 4.3.

They are about :math:`E_2 = H - \gamma^{-1} Y B^\top`, B = W(WᵀW)⁻¹: the part of the features that is not collapsed.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from nc_sweeps.metrics.centring import operator_norm, square_norm


def deviation_from_target(
    H: Float[Tensor, "*run n p"],
    W: Float[Tensor, "*run p q"],
    Y: Float[Tensor, "*run n q"],
    gamma: Float[Tensor, "*run"],
) -> Float[Tensor, "*run"]:
    r"""Return :math:`\|E_2\|_F^2`, the left-hand side of Theorem 4.2 (10)."""
    return square_norm(H - Y @ (torch.linalg.pinv(W) / gamma[..., None, None]))


def theorem_4_2(
    loss: Float[Tensor, "*run"],
    epsilon_squared: Float[Tensor, "*run"],
    singular: Float[Tensor, "*run q"],
    samples: int,
    gamma: Float[Tensor, "*run"],
    lambda_rho: Float[Tensor, "*run"],
    c1: float,
) -> Float[Tensor, "*run"]:
    r"""Return the paper's bound (10),

    .. math::
        \|E_2\|_F^2 \le 2(\lambda_\rho^{-4}\gamma^4 C_1^2\sigma_{max}^4 + \lambda_\rho^{-2})\, C_1^2 n\varepsilon_S^2
        + \frac{2n\gamma^{-2}L_n + 2\lambda_\rho^{-2}\sigma_{max}^2 C_1^2 n\varepsilon_S^2}{\sigma_{min}^2}.

    Args:
        loss: :math:`L_n`.
        epsilon_squared: :math:`\varepsilon_S^2` (Definition 4.1).
        singular: singular values of W, decreasing.
        samples: n.
        gamma, lambda_rho: γ, λ_ρ.
        c1: :math:`C_1` of the activation; infinite makes the bound infinite.
    """
    largest, smallest = singular[..., 0].square(), singular[..., -1].square()
    gradient = c1**2 * samples * epsilon_squared
    features = 2.0 * (lambda_rho**-4 * gamma**4 * c1**2 * largest.square() + lambda_rho**-2) * gradient
    return features + (2.0 * samples * loss / gamma.square() + 2.0 * lambda_rho**-2 * largest * gradient) / smallest


def sharp_deviation_bound(
    loss: Float[Tensor, "*run"],
    epsilon_squared: Float[Tensor, "*run"],
    singular: Float[Tensor, "*run q"],
    samples: int,
    gamma: Float[Tensor, "*run"],
    lambda_rho: Float[Tensor, "*run"],
    activation_bound: float,
) -> Float[Tensor, "*run"]:
    r"""Return the bound that the certificate's decomposition gives in place of Theorem 4.2,

    .. math::
        \|E_2\|_F^2 \le \frac{2n\gamma^{-2}L_n}{\sigma_{min}^2}
        + \frac{n \sup|\sigma|^2 \varepsilon_S^2}{\lambda_\rho^2}.

    The two parts of :math:`E_2 = \gamma^{-1} r B^\top + R(I - P)/\lambda_\rho` are orthogonal, and R is a mean over
    particles of :math:`\sigma(Xu_j)\nabla_{a_j}^\top`. Arguments as in :func:`theorem_4_2`.

    Args:
        activation_bound: :math:`\sup|\sigma|`.
    """
    seen = 2.0 * samples * loss / (gamma * singular[..., -1]).square()
    return seen + samples * activation_bound**2 * epsilon_squared / lambda_rho.square()


def corollary_4_4(
    deviation: Float[Tensor, "*run"], singular: Float[Tensor, "*run q"], samples: int, gamma: Float[Tensor, "*run"]
) -> Float[Tensor, "*run"]:
    r"""Return the paper's bound of NC1 for balanced classes (16)–(17): with :math:`e = \gamma^2\|E_2\|_F^2`,

    .. math::
        \mathrm{NC1} \le \frac{16 e}{n(q-1)/(2q\sigma_{max}^2) - 4e}
        \quad\text{if}\quad e \le \frac{n(q-1)}{8q\sigma_{max}^2},

    and 1, which says nothing, otherwise.

    Args:
        deviation: :math:`\|E_2\|_F^2` or an upper bound of it.
        singular: singular values of W, decreasing.
        samples: n.
        gamma: γ.
    """
    q = singular.shape[-1]
    e = gamma.square() * deviation
    room = samples * (q - 1) / (2.0 * q * singular[..., 0].square())
    return torch.where(4.0 * e <= room, 16.0 * e / (room - 4.0 * e), 1.0).clamp(max=1.0)


def lemma_4_3_exponent(singular: Float[Tensor, "*run q"], beta: Float[Tensor, "*run"]) -> Float[Tensor, "*run"]:
    r"""Return :math:`\varepsilon_0` in :math:`\sigma_{min}(W) = \beta^{-\varepsilon_0}` (Lemma 4.3), NaN without noise
    and at β = 1. By the lemma it is as small as one likes for large β.

    Args:
        singular: singular values of W, decreasing.
        beta: β.
    """
    exponent = -singular[..., -1].log() / beta.log()
    return torch.where(beta.isinf() | (beta == 1.0), torch.nan, exponent)


def smallest_singular_value_bound(
    H: Float[Tensor, "*run n p"],
    r: Float[Tensor, "*run n q"],
    Y: Float[Tensor, "*run n q"],
    gamma: Float[Tensor, "*run"],
) -> Float[Tensor, "*run"]:
    r"""Return a lower bound of :math:`\sigma_{min}(W)` for every state, where Lemma 4.3 speaks of large β. Since
    :math:`\gamma H W = Y + r`,

    .. math::
        \sigma_{min}(W) \ge \frac{(\sqrt{n_{min}} - \|r\|_{op})_+}{\gamma \|H\|_{op}}.

    Args:
        H: features.
        r: residual F − Y, of a head without bias.
        Y: one-hot labels; :math:`n_{min}` is the size of the smallest class.
        gamma: γ.
    """
    smallest_class = Y.sum(dim=-2).amin(dim=-1)
    left = (smallest_class.sqrt() - operator_norm(r)).clamp(min=0.0)
    return left / (gamma * operator_norm(H))
