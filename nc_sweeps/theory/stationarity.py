r"""Distance of a cloud of particles from a stationary law, with noise and without.

:math:`\varepsilon_S^2 = E_\rho\|\nabla_\theta\,\delta E_n/\delta\rho\|^2` (Definition 4.1) contains the score of the
unknown density ρ if there is noise. The kernel gradient discrepancy does not.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def kernel_gradient_discrepancy(
    theta: Float[Tensor, "*run m D"], score: Float[Tensor, "*run m D"]
) -> Float[Tensor, "*run"]:
    r"""Return the squared kernel gradient discrepancy as a U-statistic: its mean is 0 for the law whose score is given.

    .. math::
        \mathrm{KGD}^2 = \mathrm{mean}_{i \ne j}\big[\operatorname{tr}\nabla_x\nabla_y k + s_i\cdot\nabla_y k
        + s_j\cdot\nabla_x k + k\, s_i\cdot s_j\big]_{x=\theta_i,\,y=\theta_j},
        \qquad k(x, y) = (1 + \|x - y\|^2/D)^{-1/2}

    with the inverse multiquadric kernel, scaled for a standard normal in D dimensions. Estimates near 0 may be
    negative.

    Args:
        theta: particles, or a sub-sample of them.
        score: :math:`s_i = -\beta\nabla_{\theta_i}\,\delta L_\lambda/\delta\rho`, β times the particles' negative
            gradient with weight decay.

    Reference: `arXiv 2509.10393 <https://arxiv.org/abs/2509.10393>`_.
    """
    m, D = theta.shape[-2:]
    theta = theta - theta.mean(dim=-2, keepdim=True)  # only differences matter
    lengths = theta.square().sum(dim=-1, keepdim=True) / D
    ones = torch.ones_like(lengths)
    # 1 + ‖x − y‖²/D as one product.
    left = torch.cat([-2.0 / D * theta, 1.0 + lengths, ones], dim=-1)
    k = (left @ torch.cat([theta, ones, lengths], dim=-1).mT).clamp_(min=1.0).rsqrt_()
    attraction = (score * (k @ score)).sum(dim=(-2, -1))  # Σ k s_i·s_j
    k_squared = k.square()
    cubes = k.mul_(k_squared)
    # With z = x − y: ∇_x k = −k³ z/D = −∇_y k and tr ∇_x∇_y k = k³ − 3 k⁵ ‖z‖²/D²; and k² ‖z‖²/D = 1 − k².
    fifths = torch.linalg.vecdot(cubes.flatten(-2), k_squared.flatten(-2))
    counts = cubes.sum(dim=-1, keepdim=True)
    trace = (1.0 - 3.0 / D) * counts.sum(dim=(-2, -1)) + 3.0 / D * fifths
    # s_i·∇_y k + s_j·∇_x k = k³/D (s_i − s_j)·(θ_i − θ_j); i and j contribute alike.
    transport = 2.0 / D * (score * (counts * theta - cubes @ theta)).sum(dim=(-2, -1))
    own = m + score.square().sum(dim=(-2, -1))  # i = j, where k = 1
    mean: Tensor = (trace + transport + attraction - own) / (m * (m - 1))
    return mean if m > 1 else torch.full_like(mean, torch.nan)
