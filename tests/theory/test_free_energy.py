"""Objectives, entropies and divergences against laws where they are known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from nc_sweeps.theory import free_energy as fe
from nc_sweeps.theory.stationarity import kernel_gradient_discrepancy


def gaussian(N, D, seed, runs=1):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((D, D)) / math.sqrt(D) + np.eye(D)
    theta = rng.standard_normal((runs, N, D)) @ root.T + rng.standard_normal(D)
    return torch.tensor(theta), multivariate_normal(cov=root @ root.T).entropy()


def gaussian_bound(theta):
    return fe.gaussian_entropy_bound(torch.stack([cloud.T.cov() for cloud in theta]), theta.shape[1])


def isotropic_bound(theta):
    return fe.moment_entropy_bound(theta.var(dim=-2).sum(dim=-1), theta.shape[-1])


def test_regularised_loss():
    W = torch.full((1, 3, 2), 3.0, dtype=torch.float64)  # ‖W‖² = 54
    loss, square_mean, lambda_rho, lambda_w = (torch.tensor([x], dtype=torch.float64) for x in (0.5, 11, 0.2, 0.1))
    found = fe.regularised_loss(loss, square_mean, W, lambda_rho, lambda_w)
    assert float(found) == pytest.approx(0.5 + 0.05 * 54 + 0.1 * 11, rel=1e-15)


@pytest.mark.parametrize(("N", "D"), [(12, 4), (40, 12), (2000, 5)])
def test_gaussian_entropy_is_unbiased_even_for_few_particles(N, D):
    theta, exact = gaussian(N, D, seed=N, runs=4000 if N < 100 else 200)
    found = gaussian_bound(theta)
    assert abs(float(found.mean()) - exact) < 5 * float(found.std()) / math.sqrt(len(found))


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(2, 200), st.integers(1, 20))
def test_isotropic_bound_is_above_the_gaussian_one(seed, N, D):
    theta, _ = gaussian(N, D, seed)
    covariance = np.cov(theta[0].numpy().T).reshape(D, D)
    expected = D / 2 * math.log(2 * math.pi * math.e * np.trace(covariance) / D)
    assert float(isotropic_bound(theta)) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    if N > D:
        plain = multivariate_normal(cov=covariance, allow_singular=True).entropy()
        assert expected >= plain - 1e-9


def test_nearest_neighbour_entropy(monkeypatch):
    monkeypatch.setattr(fe, "_DISTANCES", 3000 * 700)  # several blocks, the last one short
    theta, exact = gaussian(3000, 3, seed=1)
    # Standard deviation √(Var log ρ + ψ′(3))/√N ≈ 0.025; bias of the same order at D = 3.
    assert float(fe.nearest_neighbour_entropy(theta[0])) == pytest.approx(exact, abs=0.1)
    cube = torch.rand(3000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert float(fe.nearest_neighbour_entropy(cube)) == pytest.approx(0.0, abs=0.1)
    assert torch.isnan(fe.nearest_neighbour_entropy(cube[:3]))


def test_free_energy_is_a_lower_bound_and_without_noise_the_loss():
    """Uniform particles in a cube of side s: E_n is known; the Gaussian bounds lie below it by what they should."""
    side, beta, loss = 2.0, torch.tensor([10.0], dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64)
    theta = side * torch.rand(1, 100_000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = 0.3 - 3 * math.log(side) / 10.0
    gap = 3 * (0.5 * math.log(2 * math.pi * math.e * side**2 / 12) - math.log(side)) / 10.0
    for entropy in (gaussian_bound(theta), isotropic_bound(theta)):
        found = float(fe.free_energy(loss, beta, entropy))
        assert found < exact
        # The variances are known to √(0.8/N) ≈ 0.3 %; half of it per dimension, divided by β.
        assert found == pytest.approx(exact - gap, abs=3e-3)
    assert float(fe.free_energy(loss, torch.tensor([math.inf]).double(), torch.tensor([math.nan]).double())) == 0.3


def test_divergence_from_the_prior():
    """Lemma A.3 against the closed form between two Gaussians, and as stated, through E_n."""
    lam, beta, D, shift, scale = 0.2, 8.0, 4, 0.7, 1.3
    precision = lam * beta
    entropy = D / 2 * math.log(2 * math.pi * math.e * scale**2)
    square = D * (scale**2 + shift**2)
    numbers = [torch.tensor([x], dtype=torch.float64) for x in (square, beta, lam, entropy)]
    found = float(fe.divergence_from_prior(numbers[0], D, *numbers[1:]))
    closed = D / 2 * (precision * (scale**2 + shift**2) - 1 - math.log(precision * scale**2))
    assert found == pytest.approx(closed, rel=1e-12)
    E_minus = lam / 2 * square - entropy / beta  # E_n − L_n − λ_W‖W‖²/2
    assert found == pytest.approx(beta * E_minus + D / 2 * math.log(2 * math.pi / precision), rel=1e-12)
    for beta_, lam_ in ((math.inf, lam), (beta, 0.0)):
        numbers[1:3] = [torch.tensor([x], dtype=torch.float64) for x in (beta_, lam_)]
        assert torch.isnan(fe.divergence_from_prior(numbers[0], D, *numbers[1:]))


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 6), st.integers(1, 5), st.integers(0, 1000))
def test_kernel_gradient_discrepancy_by_autograd(m, D, seed):
    rng = np.random.default_rng(seed)
    theta, score = (torch.tensor(rng.standard_normal((m, D))) for _ in range(2))

    def kernel(x, y):
        return (1 + ((x - y) ** 2).sum() / D) ** -0.5

    total = 0.0
    for i in range(m):
        for j in range(m):
            if i == j:
                continue
            x, y = theta[i].clone().requires_grad_(), theta[j].clone().requires_grad_()
            g_x, g_y = torch.autograd.grad(kernel(x, y), (x, y), create_graph=True)
            mixed = sum(torch.autograd.grad(g_x[c], y, retain_graph=True)[0][c] for c in range(D))
            k = kernel(x, y)
            total += float((mixed + score[i] @ g_y + score[j] @ g_x + k * (score[i] @ score[j])).detach())
    found = float(kernel_gradient_discrepancy(theta, score))
    assert found == pytest.approx(total / (m * (m - 1)), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("scale", [0.1, 30.0, 1000.0])
def test_the_error_of_kernel_gradient_discrepancy_in_float32_is_far_below_that_of_its_sample(scale):
    generator = torch.Generator().manual_seed(0)
    theta, score = (torch.randn(64, 256, 24, generator=generator, dtype=torch.float64) for _ in range(2))
    exact = kernel_gradient_discrepancy(theta, scale * score)
    rounded = kernel_gradient_discrepancy(theta.float(), scale * score.float())
    # Sums of m products round to m·2⁻²⁴ of their terms at most, and the sample's error is 1/m of these.
    assert float((rounded - exact).abs().max()) < 256**2 * 2**-24 * float(exact.std())


def test_kernel_gradient_discrepancy_vanishes_for_the_law_of_the_score_only():
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(200, 150, 5, generator=generator, dtype=torch.float64)
    right = kernel_gradient_discrepancy(theta, -theta)  # ∇ log of the standard normal
    assert abs(float(right.mean())) < 4 * float(right.std()) / math.sqrt(200)
    wrong = kernel_gradient_discrepancy(theta, -1.5 * theta)
    assert float(wrong.mean()) > 20 * float(right.std()) / math.sqrt(200)
    assert torch.isnan(kernel_gradient_discrepancy(theta[0, :1], theta[0, :1]))
