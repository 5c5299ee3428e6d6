"""The paper's statements hold, are computed as stated, and are looser than the certificate."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nc_sweeps.activations import ACTIVATIONS
from nc_sweeps.dynamics.gradients import compute_loss_gradients
from nc_sweeps.metrics.collapse import nc1
from nc_sweeps.metrics.prediction import mean_square_loss
from nc_sweeps.metrics.statistics import class_statistics, one_hot
from nc_sweeps.theory import paper_bounds
from nc_sweeps.theory.certificate import centred_head_bound, certificate
from tests.networks import networks_of
from tests.theory.states import random_states


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 1000),
    activation=st.sampled_from(["tanh", "sigmoid", "erf"]),
    q=st.integers(2, 4),
    extra=st.integers(0, 3),
    gamma=st.floats(0.3, 5.0),
    lam=st.floats(1e-3, 1.0),
    fit=st.floats(0.0, 1.0),
)
def test_theorem_4_2_holds_and_the_sharp_form_is_below_it(seed, activation, q, extra, gamma, lam, fit):
    """For real networks, from random ones to those whose second layer interpolates the targets."""
    runs, N, n, d, p = 3, 30, 4 * q, 4, q + extra
    generator = torch.Generator().manual_seed(seed)
    networks = networks_of(runs, N, d, p, q, activation, gamma)
    X = torch.randn(runs, n, d, generator=generator, dtype=torch.float64)
    X /= X.norm(dim=-1, keepdim=True)
    Y = one_hot((torch.arange(n) % q).expand(runs, n), q, torch.float64)
    S = ACTIVATIONS[activation].value(X @ networks.U.mT)
    missing = Y @ torch.linalg.pinv(networks.W) / gamma - networks.features(X)
    networks.A.add_(fit * torch.linalg.pinv(S) @ (N * missing))

    g, H = compute_loss_gradients(networks, X, Y), networks.features(X)
    W, one = networks.W.data, torch.ones(runs, dtype=torch.float64)
    particles = sum(((z + lam * Z) ** 2).sum((1, 2)) for z, Z in ((g.A, networks.A), (g.U, networks.U))) / N
    loss = mean_square_loss(gamma * H @ W, Y)
    arguments = loss, particles.detach(), torch.linalg.svdvals(W), n, gamma * one, lam * one
    deviation = paper_bounds.deviation_from_target(H, W, Y, gamma * one)
    sharp = paper_bounds.sharp_deviation_bound(*arguments, ACTIVATIONS[activation].bound)
    theirs = paper_bounds.theorem_4_2(*arguments, ACTIVATIONS[activation].c1)
    assert (deviation <= sharp * (1 + 1e-9)).all()
    assert (sharp <= theirs * (1 + 1e-12)).all()
    corollary = paper_bounds.corollary_4_4(deviation, torch.linalg.svdvals(W), n, gamma * one)
    assert (nc1(class_statistics(H, Y)) <= corollary * (1 + 1e-9) + 1e-12).all()
    r = gamma * H @ W - Y
    lower = paper_bounds.smallest_singular_value_bound(H, r, Y, gamma * one)
    assert (lower <= torch.linalg.svdvals(W)[:, -1] * (1 + 1e-9)).all()


def test_bounds_in_numbers():
    """Formulas (10), (16), (17) a second time, by hand."""
    loss, eps2, singular, n, gamma, lam, c1 = 0.01, 1e-6, np.array([2.0, 0.5]), 40, 1.5, 0.1, 2.0
    first = 2 * (lam**-4 * gamma**4 * c1**2 * 2.0**4 + lam**-2) * c1**2 * n * eps2
    second = (2 * n * gamma**-2 * loss + 2 * lam**-2 * 2.0**2 * c1**2 * n * eps2) / 0.5**2
    tensors = [torch.tensor(x, dtype=torch.float64) for x in (loss, eps2, singular, gamma, lam)]
    found = paper_bounds.theorem_4_2(tensors[0], tensors[1], tensors[2], n, tensors[3], tensors[4], c1)
    assert float(found) == pytest.approx(first + second, rel=1e-13)
    sharp = paper_bounds.sharp_deviation_bound(tensors[0], tensors[1], tensors[2], n, tensors[3], tensors[4], 1.0)
    assert float(sharp) == pytest.approx(2 * n * loss / (gamma * 0.5) ** 2 + n * eps2 / lam**2, rel=1e-13)

    limit = n * (2 - 1) / (8 * 2 * 2.0**2) / gamma**2  # of ‖E₂‖², where condition (16) ends
    for deviation, expected in (
        (0.01 * limit, 16 * 0.01 * limit * gamma**2 / (4 * limit * gamma**2 - 0.04 * limit * gamma**2)),
        (1.01 * limit, 1.0),
    ):
        bound = paper_bounds.corollary_4_4(torch.tensor(deviation, dtype=torch.float64), tensors[2], n, tensors[3])
        assert float(bound) == pytest.approx(expected, rel=1e-12)
    exponent = paper_bounds.lemma_4_3_exponent(tensors[2], torch.tensor(100.0, dtype=torch.float64))
    assert float(exponent) == pytest.approx(math.log(2) / math.log(100), rel=1e-13)
    assert torch.isnan(paper_bounds.lemma_4_3_exponent(tensors[2], torch.tensor(math.inf, dtype=torch.float64)))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    q=st.integers(2, 5),
    extra=st.integers(0, 4),
    samples=st.integers(1, 20),
    near_collapse=st.floats(0, 3),
    deficient=st.booleans(),
)
def test_with_a_head_bias_no_bound_is_violated(seed, q, extra, samples, near_collapse, deficient):
    generator = torch.Generator().manual_seed(seed)
    H, W, Y, gamma = random_states(
        generator, runs=300, q=q, p=q + extra, n=q + samples, near_collapse=near_collapse, deficient=None
    )
    if deficient:  # where a head with a bias tends to: W of rank q − 1
        W = W - W.mean(dim=-1, keepdim=True)
        H = H + (Y - Y.mean(dim=-2, keepdim=True)) @ torch.linalg.pinv(W) / gamma[:, None, None]
    bias = torch.randn(300, q, generator=generator, dtype=torch.float64)
    measured = nc1(class_statistics(H, Y))
    found = certificate(H, W, Y, gamma, bias)
    slack = 1e-9
    for bound in (found.nc1_bound, found.closed_form):
        assert (measured <= bound * (1 + slack) + slack).all()
    if deficient:  # B is then rounding divided by rounding
        return
    # The bias is constant over samples: without it the same ℓ.
    torch.testing.assert_close(found.loss_term, certificate(H, W, Y, gamma).loss_term, rtol=1e-9, atol=1e-12)


def test_the_centred_head_saves_the_bound_of_a_head_with_a_bias():
    """A nearly collapsed state whose head has rank q − 1 but for a trace: κ → ∞ empties the bounds that hold B of full
    rank or κ, and the certificate does not need them, whether or not it is told of the bias.
    """
    q, p, n = 3, 6, 30
    generator = torch.Generator().manual_seed(0)
    Y = one_hot((torch.arange(n) % q)[None], q, torch.float64)
    W = torch.randn(1, p, q, generator=generator, dtype=torch.float64)
    W = W - W.mean(dim=-1, keepdim=True) + 1e-6 * torch.randn(1, p, 1, generator=generator, dtype=torch.float64)
    centred_targets = Y - 1 / q
    H = centred_targets @ torch.linalg.pinv(W - W.mean(dim=-1, keepdim=True))
    H = H + 0.01 * H.std() * torch.randn(1, n, p, generator=generator, dtype=torch.float64)
    gamma, bias = torch.ones(1, dtype=torch.float64), torch.full((1, q), 1 / q, dtype=torch.float64)
    measured = float(nc1(class_statistics(H, Y)))
    plain, with_bias = certificate(H, W, Y, gamma), certificate(H, W, Y, gamma, bias)
    features, residuals = (class_statistics(Z, Y) for Z in (H, H @ W + bias[:, None] - Y))
    bound = centred_head_bound(features, residuals, W, gamma)
    assert float(bound) < 1.2 * measured
    for found in (plain, with_bias):
        assert measured < float(found.nc1_bound) <= float(bound)
        assert float(found.closed_form) == 1.0
