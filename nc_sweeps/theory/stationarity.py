r"""How far a cloud of particles is from stationary, with noise and without.

:math:`\varepsilon_S^2 = E_\rho\|\nabla_\theta\,\delta E_n/\delta\rho\|^2` (Definition 4.1) holds the score of the
unknown density ρ as soon as there is noise. The kernel gradient discrepancy does without it.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def kernel_gradient_discrepancy(
    theta: Float[Tensor, "*run m D"], score: Float[Tensor, "*run m D"]
) -> Float[Tensor, "*run"]:
    r"""Squared kernel gradient discrepancy, as a U-statistic: its mean is 0 for the law whose score is given.

    .. math::
        \mathrm{KGD}^2 = \mathrm{mean}_{i \ne j}\big[\operatorname{tr}\nabla_x\nabla_y k + s_i\cdot\nabla_y k
        + s_j\cdot\nabla_x k + k\, s_i\cdot s_j\big]_{x=\theta_i,\,y=\theta_j},
        \qquad k(x, y) = (1 + \|x - y\|^2/D)^{-1/2}

    with the inverse multiquadric kernel on the scale of a standard normal in D dimensions. Estimates near 0 may be
    negative.

    Args:
        theta: particles, or a sub-sample of them.
        score: :math:`s_i = -\beta\nabla_{\theta_i}\,\delta L_\lambda/\delta\rho`, β times the particles' negative
            gradient with weight decay.

    Reference: `arXiv 2509.10393 <https://arxiv.org/abs/2509.10393>`_.
    """
    m, D = theta.shape[-2:]
    gram = theta @ theta.mT
    square = gram.diagonal(dim1=-2, dim2=-1)
    distance = (square[..., :, None] + square[..., None, :] - 2.0 * gram).clamp(min=0.0)
    k_squared = 1.0 / (1.0 + distance / D)
    k = k_squared.sqrt()
    # With z = x − y: ∇_x k = −k³ z/D = −∇_y k and tr ∇_x∇_y k = k³ − 3 k⁵ ‖z‖²/D²; and k² ‖z‖²/D = 1 − k².
    trace = 1.0 - 3.0 / D * (1.0 - k_squared)
    along = score @ theta.mT  # s_i · θ_j
    own = along.diagonal(dim1=-2, dim2=-1)
    # s_i·∇_y k + s_j·∇_x k = k³/D (s_i − s_j)·(θ_i − θ_j)
    transport = (own[..., :, None] + own[..., None, :] - along - along.mT) / D
    terms = k * (k_squared * (trace + transport) + score @ score.mT)
    total = terms.sum(dim=(-2, -1)) - terms.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    mean: Tensor = total / (m * (m - 1))
    return mean if m > 1 else torch.full_like(mean, torch.nan)
