r"""Data with a known separation: class k is uniform on :math:`C_k = \{\|x\| \le 1,\ v^k_j x_j \ge \tau\ (j \le q)\}`,
:math:`v^k = 2e_k - 1`.

At margin τ > 0 the classes are linearly separable through the origin; at τ < 0 they overlap and the Bayes error is
positive; τ = 0 is the touching point.
"""

import math
from functools import cache

import numpy as np
from jaxtyping import Float
from scipy.special import log_ndtr, ndtr, ndtri_exp

from nc_sweeps.data.split import Split
from nc_sweeps.errors import DataError

_BATCH = 1 << 14
_MAX_BATCHES = 4096
#: How many numbers are drawn at once for the coordinates beyond the first q.
_CHUNK = 1 << 21


def sample_separable(
    *, classes: int, dimension: int, margin: float, per_class: int, generator: np.random.Generator
) -> Split:
    """Sample every class exactly, by rejection.

    Args:
        classes: number of classes q ≥ 2.
        dimension: input dimension d ≥ q.
        margin: margin τ in (−1, 1/√q).
        per_class: number of samples of each class.
        generator: source of randomness.

    Returns:
        Samples (q·per_class, d) in class order, every one a float32 number that satisfies ‖x‖ ≤ 1 and
        :math:`v^k_j x_j ≥ τ` exactly.

    Raises:
        DataError: the acceptance rate is too small to sample at all.
    """
    x = _sample_orthant_cap(classes * per_class, classes, dimension, margin, generator)
    labels = np.repeat(np.arange(classes), per_class)
    x[:, :classes] *= 2.0 * np.eye(classes)[labels] - 1.0
    return Split(x, labels)


def estimate_bayes_error(x: Float[np.ndarray, "n d"], classes: int, margin: float) -> float:
    r"""Estimate the Bayes error :math:`E[1 - 1/c(x)]` by Monte Carlo; c(x) is how many sets :math:`C_l` hold x.

    Args:
        x: samples of the (class-balanced) mixture.
        classes: number of classes q.
        margin: margin τ; the error is 0 for τ > 0.
    """
    signs = 2.0 * np.eye(classes) - 1.0
    inside = (signs[None] * x[:, None, :classes] >= margin).all(axis=2)
    return float(np.mean(1.0 - 1.0 / inside.sum(axis=1)))


def _sample_orthant_cap(
    count: int, q: int, d: int, margin: float, generator: np.random.Generator
) -> Float[np.ndarray, "count d"]:
    r"""Return uniform samples of :math:`\{\|x\| \le 1, x_j \ge \tau\ (j \le q)\}`.

    The first q coordinates z have density ∝ (1−‖z‖²)^h, h = (d−q)/2. Independent truncated normals of density
    ∝ exp(−κ z²), κ = h/(1−s₀), are accepted with probability exp(h[log(1−s) − log(1−s₀)] + κ(s−s₀)), s = ‖z‖²,
    which never exceeds 1 and is largest at s = s₀; s₀ ≈ E‖z‖² makes acceptance likely. The remaining coordinates are
    uniform in a ball of radius √(1−s).
    """
    h = (d - q) / 2
    upper = math.sqrt(1.0 - (q - 1) * max(margin, 0.0) ** 2)
    s0 = _find_typical_square(h, q, margin, upper)
    kappa = h / (1.0 - s0)

    samples = np.empty((count, d))
    found = 0
    for _ in range(_MAX_BATCHES):
        z = _propose(kappa, margin, upper, (_BATCH, q), generator)
        s = np.square(z).sum(axis=1)
        inside = s < 1.0
        z, s = z[inside], s[inside]
        log_probability = h * (np.log1p(-s) - math.log1p(-s0)) + kappa * (s - s0)
        keep = np.log(generator.random(len(s))) < log_probability
        z, radii = z[keep], np.sqrt(1.0 - s[keep])
        # In high dimension the other coordinates are expensive: draw no more of them than are wanted.
        while len(z) and found < count:
            rows = min(max(1, _CHUNK // d), count - found)
            x = np.concatenate([z[:rows], _sample_balls(radii[:rows], d - q, generator)], axis=1)
            z, radii = z[rows:], radii[rows:]
            # Round first and test then, so that the rounded samples keep the promise exactly.
            x = x.astype(np.float32).astype(np.float64)
            x = x[(np.square(x).sum(axis=1) <= 1.0) & (x[:, :q] >= margin).all(axis=1)]
            samples[found : found + len(x)] = x
            found += len(x)
        if found == count:
            return samples
    raise DataError(
        f"dataset.margin={margin:g} with {q} classes in {d} dimensions: fewer than {count} of "
        f"{_MAX_BATCHES * _BATCH:,} proposals were accepted; take more dimensions or a smaller margin"
    )


def _propose(
    kappa: float, lower: float, upper: float, shape: tuple[int, int], generator: np.random.Generator
) -> Float[np.ndarray, "..."]:
    if kappa == 0.0:
        return generator.uniform(lower, upper, shape)
    scale = math.sqrt(0.5 / kappa)
    a, b = lower / scale, upper / scale
    # This inverts the upper tail by its logarithm, which keeps its digits however far out [a, b] lies. The truncnorm of
    # SciPy is the same and fifteen times slower, since it computes for every sample what is the same for all.
    tail = np.logaddexp(log_ndtr(-b), np.log1p(-generator.random(shape)) + _compute_log_mass(a, b))
    return -scale * ndtri_exp(tail)


def _compute_log_mass(a: float, b: float) -> float:
    """Return the logarithm of the standard normal mass of [a, b], for b > 0."""
    if a <= 0.0:
        return math.log1p(-ndtr(a) - ndtr(-b))
    return float(log_ndtr(-a) + math.log1p(-math.exp(log_ndtr(-b) - log_ndtr(-a))))


@cache
def _find_typical_square(h: float, q: int, lower: float, upper: float) -> float:
    """Return the fixed point of s₀ = q·E z² under the proposal that s₀ defines."""
    s0 = q / (q + 2 * h + 2)
    for _ in range(50):
        if h == 0.0:
            break
        scale = math.sqrt(0.5 * (1.0 - s0) / h)
        a, b = lower / scale, upper / scale
        # E z² of a standard normal truncated to [a, b], whose density at the ends is f: 1 + a f(a) − b f(b).
        log_mass = 0.5 * math.log(2.0 * math.pi) + _compute_log_mass(a, b)
        f_a, f_b = (math.exp(-0.5 * z * z - log_mass) for z in (a, b))
        s0 = min(q * scale**2 * (1.0 + a * f_a - b * f_b), 1.0 - 1e-9)
    return s0


def _sample_balls(
    radii: Float[np.ndarray, "n"], dimension: int, generator: np.random.Generator
) -> Float[np.ndarray, "n {dimension}"]:
    """Return uniform samples of balls of the given radii; an empty array for dimension 0."""
    if dimension == 0:
        return np.empty((len(radii), 0))
    direction = generator.standard_normal((len(radii), dimension))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return direction * (radii * generator.random(len(radii)) ** (1.0 / dimension))[:, None]
