"""Every integrator is held to the same promises: its order on coupled noise, its noise, and its limits."""

import math

import pytest
import torch
from scipy import stats

from nc_sweeps.dynamics.integrators import INTEGRATORS

LAMBDA, BETA = 0.7, 2.0


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def step(theta, coefficients, gradient, xi):
    return theta + coefficients.growth * theta - coefficients.gradient * gradient + coefficients.noise * xi


def endpoints(integrator, fine_noise, coarsening, step_size):
    """Paths of dθ = −(sin θ + λθ)dt + √(2/β)dB with steps of ``coarsening`` fine steps, driven by the same noise.

    The noise of a coarse step is the sum of the fine ones, each decayed to the end of the step as the integrator
    decays θ itself: that is the noise of one coarse step exactly.
    """
    fine = integrator.compute_coefficients(tensor(step_size), tensor(LAMBDA), tensor(BETA))
    coarse = integrator.compute_coefficients(tensor(step_size * coarsening), tensor(LAMBDA), tensor(BETA))
    # dθ's own decay factor per fine step, read off the noise: Var of the sum must equal the coarse variance.
    decay = math.exp(-LAMBDA * step_size) if coarse.noise**2 < coarsening * fine.noise**2 * (1 - 1e-9) else 1.0
    theta = torch.zeros(fine_noise.shape[1], dtype=torch.float64)
    for block in fine_noise.split(coarsening):
        weights = tensor(*(decay ** (coarsening - 1 - i) for i in range(coarsening)))
        xi = fine.noise * (weights[:, None] * block).sum(dim=0) / coarse.noise
        theta = step(theta, coarse, torch.sin(theta), xi)
    return theta


@pytest.mark.parametrize("name", INTEGRATORS)
def test_strong_order(name):
    integrator = INTEGRATORS[name]
    generator = torch.Generator().manual_seed(1)
    fine_steps, paths = 1024, 2000
    noise = torch.randn(fine_steps, paths, generator=generator, dtype=torch.float64)
    reference = endpoints(integrator, noise, 1, 1 / fine_steps)
    coarsenings = [16, 32, 64, 128]
    errors = [float((endpoints(integrator, noise, c, 1 / fine_steps) - reference).abs().mean()) for c in coarsenings]
    fit = stats.linregress([math.log(c) for c in coarsenings], [math.log(e) for e in errors])
    # Next-order terms bend the line by O(h): the largest step is 1/8.
    assert fit.slope == pytest.approx(integrator.strong_order, abs=0.125)


@pytest.mark.parametrize("name", INTEGRATORS)
def test_noise_has_variance_two_over_beta(name):
    h = 1e-6
    noise = INTEGRATORS[name].compute_coefficients(tensor(h), tensor(LAMBDA), tensor(BETA)).noise
    assert float(noise**2 / h) == pytest.approx(2 / BETA, rel=2 * LAMBDA * h)


@pytest.mark.parametrize("name", INTEGRATORS)
def test_limits(name):
    integrator = INTEGRATORS[name]
    free = integrator.compute_coefficients(tensor(0.3), tensor(0.0), tensor(BETA))
    assert (float(free.growth), float(free.gradient)) == (0.0, 0.3)
    assert float(free.noise) == pytest.approx(math.sqrt(2 * 0.3 / BETA), rel=1e-15)
    assert float(integrator.compute_coefficients(tensor(0.3), tensor(LAMBDA), tensor(math.inf)).noise) == 0.0
    # Small decay: the increment keeps its digits.
    small = integrator.compute_coefficients(tensor(0.1), tensor(1e-12), tensor(BETA))
    assert float(small.growth) == pytest.approx(-1e-13, rel=1e-12)


@pytest.mark.parametrize("step_size", [0.01, 0.5, 3.0, 40.0])
def test_exponential_integrator_is_exact_for_ornstein_uhlenbeck(step_size):
    c = INTEGRATORS["exponential"].compute_coefficients(tensor(step_size), tensor(LAMBDA), tensor(BETA))
    growth = 1 + float(c.growth)
    # Transition law N(e^{−λt}θ, (1 − e^{−2λt})/(λβ)), and the stationary variance 1/(λβ) is kept.
    assert growth == pytest.approx(math.exp(-LAMBDA * step_size), rel=1e-14)
    assert float(c.noise**2) == pytest.approx((1 - math.exp(-2 * LAMBDA * step_size)) / (LAMBDA * BETA), rel=1e-14)
    assert growth**2 / (LAMBDA * BETA) + float(c.noise**2) == pytest.approx(1 / (LAMBDA * BETA), rel=1e-14)
    # A constant gradient is integrated exactly too.
    assert float(c.gradient) == pytest.approx((1 - math.exp(-LAMBDA * step_size)) / LAMBDA, rel=1e-14)
