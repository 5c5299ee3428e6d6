"""The imbalance law: exact for one step, and along runs as far as its own prediction of the deviation says."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nc_sweeps.counters import Stream, normals
from nc_sweeps.dynamics.batches import MiniBatches
from nc_sweeps.dynamics.flow import Flow, Hyperparameters
from nc_sweeps.dynamics.gradients import compute_loss_gradients
from nc_sweeps.dynamics.integrators import INTEGRATORS
from nc_sweeps.dynamics.schedule import Piece, Schedule
from nc_sweeps.metrics.centring import square_norm
from nc_sweeps.metrics.statistics import one_hot
from nc_sweeps.theory.imbalance import ImbalanceLaw, discrete_law, imbalance, stationary_residual
from tests.networks import networks_of


def problem(runs, n=12, d=3, q=2):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(1, n, d, generator=generator, dtype=torch.float64)
    X = (X / X.norm(dim=-1, keepdim=True)).expand(runs, n, d)
    return X, one_hot((torch.arange(n) % q)[None], q, torch.float64).expand(runs, n, q)


def flow_of(networks, *, beta, lambda_rho, lambda_w, step_size, steps, integrator="euler_maruyama", batch_size=None):
    runs = networks.runs

    def column(value):
        return torch.full((runs,), value, dtype=torch.float64)

    schedule = Schedule((Piece(0, steps, step_size),), 3 if batch_size else 1)
    hyper = Hyperparameters(torch.arange(runs), column(beta), column(lambda_rho), column(lambda_w), (schedule,) * runs)
    return Flow(networks, INTEGRATORS[integrator], hyper, batch_size, torch.zeros(runs, dtype=torch.int64))


def samples_of(step, X, Y, batch_size):
    if batch_size is None:
        return X, Y
    chosen = MiniBatches(torch.arange(len(X)), X.shape[1], batch_size).of(step)
    runs = torch.arange(len(X))[:, None]
    return X[runs, chosen], Y[runs, chosen]


@settings(max_examples=40, deadline=None)
@given(
    N=st.integers(1, 30),
    extra=st.integers(0, 4),
    q=st.integers(2, 4),
    activation=st.sampled_from(["tanh", "sigmoid", "relu"]),
    gamma=st.floats(0.3, 4.0),
    beta=st.sampled_from([5.0, 1000.0, math.inf]),
    decays=st.sampled_from([(0.1, 0.1), (0.02, 0.3), (0.4, 0.0)]),
    integrator=st.sampled_from(sorted(INTEGRATORS)),
    batch_size=st.sampled_from([None, 5]),
)
def test_discrete_law(N, extra, q, activation, gamma, beta, decays, integrator, batch_size):
    """Ten steps of the real flow, its noise read off the counters: equal to 1e-12, whatever the width and the batch."""
    # ηγ² at most 0.1 on inputs in the unit ball: unbounded activations must not run away.
    p, eta, steps = q + extra, 0.1 / max(gamma, 1.0) ** 2, 10
    networks, (X, Y) = networks_of(1, N, 3, p, q, activation, gamma), problem(1, q=q)
    flow = flow_of(
        networks, beta=beta, lambda_rho=decays[0], lambda_w=decays[1], step_size=eta, steps=steps,
        integrator=integrator, batch_size=batch_size,
    )  # fmt: skip
    one = torch.tensor([1.0], dtype=torch.float64)
    particle = INTEGRATORS[integrator].compute_coefficients(eta * one, decays[0] * one, beta * one)
    head = INTEGRATORS[integrator].compute_coefficients(eta * one, decays[1] * one, math.inf * one)
    predicted = imbalance(networks.second_moment, networks.W)[0]
    for step in range(1, steps + 1):
        A, W = networks.A[0].clone(), networks.W[0].clone()
        g = compute_loss_gradients(networks, *samples_of(step, X, Y, batch_size))
        xi = normals(torch.tensor([0]), Stream.NOISE, step, torch.arange(N), p + 3, torch.float64)[0, :, :p]
        predicted = discrete_law(
            predicted, A, W, g.A[0], g.W[0], xi,
            (1 + float(particle.growth), float(particle.gradient), float(particle.noise)),
            (1 + float(head.growth), float(head.gradient)),
        )  # fmt: skip
        flow.advance(X, Y, step - 1, step)
        found = imbalance(networks.second_moment, networks.W)[0]
        # Of the size of the two matrices whose difference the imbalance is.
        size = float((networks.A[0].square().sum() / N + networks.W.square().sum()).detach())
        assert float((found - predicted).norm()) <= 1e-12 * max(size, 1.0)


@pytest.mark.parametrize("decays", [(0.1, 0.1), (0.05, 0.2)])
def test_without_noise_the_law_is_met_to_first_order_in_the_step_size(decays):
    """Every N is exact in continuous time, so that halving η halves the deviation; t = 3/λ_ρ."""
    deviations = []
    for eta in (0.1, 0.05, 0.025):
        steps = round(3 / decays[0] / eta)
        networks, (X, Y) = networks_of(1, 7, 3, 4, 2), problem(1)
        flow = flow_of(networks, beta=math.inf, lambda_rho=decays[0], lambda_w=decays[1], step_size=eta, steps=steps)
        flow.advance(X, Y, 0, steps)
        deviations.append(float(square_norm(imbalance(networks.second_moment, networks.W) - flow.law.D).sqrt()))
    ratios = [a / b for a, b in pairwise(deviations)]
    # The first-order error dominates; the next order changes the ratios by O(η λ, η ‖g‖).
    assert ratios == pytest.approx([2.0, 2.0], rel=0.05)
    assert deviations[0] < 0.05


def test_with_noise_the_deviation_is_as_large_as_predicted_and_falls_with_width():
    """64 runs at each of four widths: the root mean square of the deviation at t = 3/λ and its slope."""
    runs, lam, beta, eta = 64, 0.1, 20.0, 0.05
    steps, widths = round(3 / lam / eta), (16, 64, 256, 1024)
    measured, predicted = [], []
    for N in widths:
        networks, (X, Y) = networks_of(runs, N, 3, 4, 2), problem(runs)
        flow = flow_of(
            networks, beta=beta, lambda_rho=lam, lambda_w=lam, step_size=eta, steps=steps, integrator="exponential"
        )
        flow.advance(X, Y, 0, steps)
        measured.append(float(square_norm(imbalance(networks.second_moment, networks.W) - flow.law.D).mean().sqrt()))
        predicted.append(float(flow.law.expected_deviation(N).square().mean().sqrt()))
    # A mean of 64 squares, each a sum of p² = 16 correlated terms: about 10 % at one standard deviation; and what η
    # adds, η Q/(2λ), below 5 % of the deviation at the largest width.
    np.testing.assert_allclose(measured, predicted, rtol=0.3)
    slope = np.polyfit(np.log(widths), np.log(measured), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.1)


def test_law_in_closed_form():
    """λ_ρ = λ_W: relaxation from D₀ to I/(βλ). λ_ρ ≠ λ_W with W at rest: to (I/β − (λ_ρ − λ_W)WWᵀ)/λ_ρ."""
    lam, beta, time = 0.3, 7.0, 1.9
    A, W = torch.randn(1, 5, 3, dtype=torch.float64), torch.randn(1, 3, 2, dtype=torch.float64)
    D0, gram, identity = imbalance(A.mT @ A / 5, W), W @ W.mT, torch.eye(3, dtype=torch.float64)
    for lambda_w in (lam, 0.1):
        law = ImbalanceLaw(*(torch.tensor([x], dtype=torch.float64) for x in (beta, lam, lambda_w)))
        law.restart(torch.tensor([True]), A.mT @ A / 5, W)
        for _ in range(10):
            tenth = torch.tensor([time / 10], dtype=torch.float64)
            law.advance(tenth, gram.unsqueeze(1))
            law.accumulate(tenth, torch.tensor([2.0], dtype=torch.float64))
        decay = math.exp(-2 * lam * time)
        limit = (identity / beta - (lam - lambda_w) * gram) / lam
        torch.testing.assert_close(law.D, decay * D0 + (1 - decay) * limit, rtol=1e-13, atol=1e-15)
        expected = 4 * (3 + 1) / (beta * 50) * 2.0 * (1 - math.exp(-4 * lam * time)) / (4 * lam)
        assert float(law.expected_deviation(50)) == pytest.approx(math.sqrt(expected), rel=1e-13)


def test_without_decay_the_law_is_a_drift():
    zero, beta = torch.zeros(1, dtype=torch.float64), torch.tensor([4.0], dtype=torch.float64)
    law = ImbalanceLaw(beta, zero, zero)
    A, W = torch.randn(1, 5, 3, dtype=torch.float64), torch.randn(1, 3, 2, dtype=torch.float64)
    law.restart(torch.tensor([True]), A.mT @ A / 5, W)
    law.advance(torch.tensor([6.0], dtype=torch.float64), (W @ W.mT).unsqueeze(1))
    torch.testing.assert_close(law.D, imbalance(A.mT @ A / 5, W) + 2 * 6.0 / 4.0 * torch.eye(3, dtype=torch.float64))


def test_stationary_residual():
    lam, beta = 0.2, 5.0
    W = torch.randn(3, 2, dtype=torch.float64)
    numbers = [torch.tensor(x, dtype=torch.float64) for x in (lam, 0.1, beta)]
    balanced = (0.1 * W @ W.mT + torch.eye(3, dtype=torch.float64) / beta) / lam
    assert float(stationary_residual(balanced, W, *numbers)) < 1e-15
    moved = balanced + torch.eye(3, dtype=torch.float64)
    assert float(stationary_residual(moved, W, *numbers)) == pytest.approx(lam * math.sqrt(3), rel=1e-12)
    numbers[2] = torch.tensor(math.inf, dtype=torch.float64)
    assert float(stationary_residual(balanced, W, *numbers)) == pytest.approx(math.sqrt(3) / beta, rel=1e-12)
