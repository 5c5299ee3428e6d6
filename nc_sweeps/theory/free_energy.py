r"""The objectives: regularised loss (4) and free energy (5), :math:`E_n = L_\lambda + \beta^{-1} E_\rho[\log\rho]`.

A cloud of particles has no density. But among all laws of one covariance the Gaussian has the largest entropy, which
gives a lower bound of the free energy; in few dimensions there is an estimate too. D = p + d is the dimension of a
particle.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from nc_sweeps.metrics.centring import square_norm

#: Number of distances between particles that are held at a time.
_DISTANCES = 2**24


def regularised_loss(
    loss: Float[Tensor, "*run"],
    square_mean: Float[Tensor, "*run"],
    W: Float[Tensor, "*run p q"],
    lambda_rho: Float[Tensor, "*run"],
    lambda_w: Float[Tensor, "*run"],
) -> Float[Tensor, "*run"]:
    r"""Return :math:`L_\lambda = L_n + \frac{\lambda_W}{2}\|W\|_F^2
    + \frac{\lambda_\rho}{2}\,\mathrm{mean}_j(\|a_j\|^2 + \|u_j\|^2)`.

    Args:
        loss: :math:`L_n`.
        square_mean: mean of :math:`\|\theta_j\|^2 = \|a_j\|^2 + \|u_j\|^2`.
        W: linear head.
        lambda_rho, lambda_w: weight decays.
    """
    return loss + lambda_w / 2 * square_norm(W) + lambda_rho / 2 * square_mean


def gaussian_entropy_bound(covariance: Float[Tensor, "*run D D"], particles: int) -> Float[Tensor, "*run"]:
    r"""Return an upper bound of the entropy :math:`-E[\log\rho]`: :math:`\frac12\log\det(2\pi e\Sigma)`.

    The log det of the sample is too small by about D(D+1)/(2N). This bias is known for Gaussian particles, and removed:
    :math:`E\log\det\hat\Sigma = \log\det\Sigma + \sum_{i=1}^D \psi\big(\tfrac{N-i}{2}\big) - D\log\tfrac{N-1}{2}`
    (Wishart; Anderson, *An Introduction to Multivariate Statistical Analysis*, §7.5).

    Args:
        covariance: unbiased sample covariance of the particles.
        particles: N > D; the covariance of fewer is singular.
    """
    N, D = particles, covariance.shape[-1]
    log_det = torch.linalg.slogdet(covariance).logabsdet
    halves = (N - torch.arange(1, D + 1, dtype=covariance.dtype, device=covariance.device)) / 2.0
    bias = torch.digamma(halves).sum() - D * math.log((N - 1) / 2.0)
    entropy: Tensor = (D * math.log(2.0 * math.pi * math.e) + log_det - bias) / 2.0
    return entropy


def moment_entropy_bound(square_mean: Float[Tensor, "*run"], dimension: int) -> Float[Tensor, "*run"]:
    r"""Return the largest entropy of a law of given second moment, that of an isotropic Gaussian:
    :math:`\frac D2 \log(2\pi e\,m/D)`.

    With the moment about the mean, :math:`m = \operatorname{tr}\Sigma`, this bound is larger than that of the Gaussian
    of equal covariance, since :math:`\log\det\Sigma \le D\log(\operatorname{tr}\Sigma/D)`. But two particles are
    enough.

    Args:
        square_mean: :math:`m = E\|\theta\|^2`, about any point.
        dimension: D.
    """
    return dimension / 2.0 * (2.0 * math.pi * math.e * square_mean / dimension).log()


def nearest_neighbour_entropy(theta: Float[Tensor, "N D"], neighbour: int = 3) -> Float[Tensor, ""]:
    r"""Return Kozachenko and Leonenko's estimate of the entropy,

    .. math::
        \hat h = \psi(N) - \psi(k) + \log V_D + \frac DN \sum_j \log\varepsilon_j,

    with :math:`\varepsilon_j` the distance of particle j to its k-th neighbour and :math:`V_D` the volume of the unit
    ball. It is no bound, and its bias grows quickly with D.

    Args:
        theta: particles of one run.
        neighbour: k.

    Reference: Kraskov, Stögbauer, Grassberger, Phys. Rev. E 69 (2004) 066138, eq. (20), Euclidean norm.
    """
    N, D = theta.shape
    if neighbour >= N:
        return theta.new_tensor(torch.nan)
    rows = max(1, _DISTANCES // N)
    # The first of the k + 1 nearest is the particle itself.
    radii = torch.cat(
        [torch.cdist(part, theta).topk(neighbour + 1, largest=False).values[:, -1] for part in torch.split(theta, rows)]
    )
    volume = D / 2.0 * math.log(math.pi) - math.lgamma(D / 2.0 + 1.0)
    counts = torch.digamma(theta.new_tensor([float(N), float(neighbour)]))
    return counts[0] - counts[1] + volume + D * radii.log().mean()


def free_energy(
    regularised: Float[Tensor, "*run"], beta: Float[Tensor, "*run"], entropy: Float[Tensor, "*run"]
) -> Float[Tensor, "*run"]:
    r"""Return :math:`E_n = L_\lambda - \beta^{-1} h`, a lower bound if the entropy h is an upper bound. Without noise
    it is :math:`L_\lambda`.
    """
    return torch.where(beta.isinf(), regularised, regularised - entropy / beta)


def divergence_from_prior(
    square_mean: Float[Tensor, "*run"],
    dimension: int,
    beta: Float[Tensor, "*run"],
    lambda_rho: Float[Tensor, "*run"],
    entropy: Float[Tensor, "*run"],
) -> Float[Tensor, "*run"]:
    r"""Return the divergence of Lemma A.3: with :math:`\rho_\infty = \mathcal N(0, (\beta\lambda_\rho)^{-1} I)`,

    .. math::
        D_{KL}(\rho\,\|\,\rho_\infty) = \beta\Big(E_n - L_n - \frac{\lambda_W}{2}\|W\|_F^2\Big)
        + \frac D2\log\frac{2\pi}{\lambda_\rho\beta} = \frac{\beta\lambda_\rho}{2} E_\rho\|\theta\|^2 - h(\rho)
        + \frac D2\log\frac{2\pi}{\lambda_\rho\beta} \ge 0.

    It is a lower bound if the entropy h is an upper bound, and NaN without noise or without weight decay.

    Args:
        square_mean: :math:`E_\rho\|\theta\|^2`.
        dimension: D.
        beta, lambda_rho: β, λ_ρ.
        entropy: h or a bound of it.
    """
    precision = beta * lambda_rho
    divergence = precision / 2.0 * square_mean - entropy + dimension / 2.0 * (2.0 * math.pi / precision).log()
    return torch.where(precision.isfinite() & (precision > 0.0), divergence, torch.nan)
