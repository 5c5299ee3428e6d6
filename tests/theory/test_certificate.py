"""The certificate: never violated, attained, and equal to the gradient form that theory states it in."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nc_sweeps.dynamics.gradients import compute_loss_gradients
from nc_sweeps.metrics.centring import centre, square_norm, within_class
from nc_sweeps.metrics.collapse import nc1
from nc_sweeps.metrics.statistics import class_statistics, merge
from nc_sweeps.theory.certificate import centred_head_bound, certificate, certificate_of_statistics, worst_nc1
from tests.networks import networks_of
from tests.theory.states import random_states


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    q=st.integers(2, 5),
    extra=st.integers(0, 4),
    samples=st.integers(1, 20),
    near_collapse=st.floats(0, 3),
    deficient=st.sampled_from([None, None, "nearly", "exactly"]),
)
def test_no_state_violates_a_bound(seed, q, extra, samples, near_collapse, deficient):
    generator = torch.Generator().manual_seed(seed)
    H, W, Y, gamma = random_states(
        generator, runs=2000, q=q, p=q + extra, n=q + samples, near_collapse=near_collapse, deficient=deficient
    )
    measured = nc1(class_statistics(H, Y))
    c = certificate(H, W, Y, gamma)
    slack = 1e-13  # the rounding of NC1 itself, a ratio of sums of at most 25 · 9 squares
    for bound in (c.nc1_bound, c.closed_form):
        assert (measured <= bound * (1 + slack) + slack).all()
    assert ((measured <= c.angle * (1 + slack) + slack) | c.angle.isnan()).all()
    assert deficient or not c.angle.isnan().any()
    assert ((c.nc1_bound >= 0) & (c.nc1_bound <= 1 + slack)).all()


@pytest.mark.parametrize("features_in", [torch.float64, torch.float32])
@pytest.mark.parametrize("weak", ["one", "all", "ones"])
def test_no_ill_conditioned_head_violates_a_bound(weak, features_in):
    """Heads of condition 1 to 1e16, whose weak directions are one, all in turn, or the one that is equal in all classes
    (where a bias drives a head), with features from 1e-6 to 1 away from what the head asks for.

    The slack is the rounding of NC1 itself, a ratio of sums of at most 40 squares.
    """
    generator = torch.Generator().manual_seed(11)

    def randn(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    informative = 0
    for trial in range(40):
        q, runs = 2 + trial % 4, 200
        p, n = (
            q + int(torch.randint(5, (1,), generator=generator)),
            q + 1 + int(torch.randint(36, (1,), generator=generator)),
        )
        labels = torch.cat([torch.arange(q), torch.randint(q, (n - q,), generator=generator)])
        Y = torch.nn.functional.one_hot(labels, q).double().expand(runs, n, q)
        U, V = torch.linalg.qr(randn(runs, p, q)).Q, randn(runs, q, q)
        if weak == "ones":
            V[..., 0] = 1.0
        V = torch.linalg.qr(V).Q.flip(-1)  # the first direction becomes the weakest
        digits = 16 * torch.rand(runs, 1, generator=generator, dtype=torch.float64)
        steps = torch.linspace(0, 1, q, dtype=torch.float64) if weak == "all" else torch.eye(q, dtype=torch.float64)[-1]
        W = U * (torch.exp(randn(runs, 1)) * 10.0 ** (-digits * steps)).unsqueeze(1) @ V.mT
        gamma = torch.exp(randn(runs))
        target = Y @ torch.linalg.pinv(W, rtol=1e-15) / gamma[:, None, None]
        size = 10.0 ** (-6 * torch.rand(runs, 1, 1, generator=generator, dtype=torch.float64))
        H = target + size * randn(runs, n, p) * target.square().mean(dim=(-2, -1), keepdim=True).sqrt()
        H = H.to(features_in).double()
        measured, c = nc1(class_statistics(H, Y)), certificate(H, W, Y, gamma)
        for bound in (c.nc1_bound, c.closed_form, c.angle):
            assert (measured <= bound * (1 + 1e-13)).all()
        informative += int((c.nc1_bound < 2 * measured).sum())
    # What is added for rounding must not make the certificate say nothing.
    assert informative > 1500


def test_the_smaller_bound_is_taken_without_a_bias_too():
    """A head tells classes from each other well, and from nothing badly: only the centred bound says much."""
    generator = torch.Generator().manual_seed(2)
    Y = torch.nn.functional.one_hot(torch.arange(30) % 3, 3).double()
    W = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    W = W - (1 - 1e-3) * W.mean(dim=1, keepdim=True)
    H = (Y - 1 / 3) @ torch.linalg.pinv(W - W.mean(dim=1, keepdim=True), rtol=1e-10)
    H = H + 0.03 * torch.randn(30, 6, generator=generator, dtype=torch.float64)
    one = torch.ones((), dtype=torch.float64)
    features, residuals = (class_statistics(Z, Y) for Z in (H, H @ W - Y))
    centred_bound = centred_head_bound(features, residuals, W, one)
    found = certificate(H, W, Y, one)
    assert worst_nc1(found.loss_term, found.range_term) > 2 * centred_bound
    assert nc1(features) <= found.nc1_bound <= centred_bound


def test_gradient_ascent_attains_the_bound():
    """Features are moved to make NC1/bound as large as possible: it approaches 1 from below and never exceeds it."""
    generator = torch.Generator().manual_seed(0)
    H, W, Y, gamma = random_states(generator, runs=64, q=3, p=5, n=9, near_collapse=2, deficient=None)
    H, W = H.requires_grad_(), W.requires_grad_()
    optimiser = torch.optim.Adam([H, W], lr=0.02)
    worst = 0.0
    for _ in range(1500):
        features, residuals = (class_statistics(Z, Y) for Z in (H, gamma[:, None, None] * (H @ W) - Y))
        ratio = nc1(features) / certificate_of_statistics(features, residuals, W, gamma).nc1_bound
        worst = max(worst, float(ratio.detach().max()))
        optimiser.zero_grad()
        (-ratio.sum()).backward()
        optimiser.step()
    assert 0.999 < worst <= 1 + 1e-9


def test_worst_case_is_the_maximum_over_all_splits():
    """The closed solution of the inner maximum against a search over ℓ_b."""
    between = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    for loss in (1e-6, 0.01, 0.3, 0.9, 0.999):
        for hidden in (0.0, 1e-6, 0.01, 0.5, 3.0):
            l_b = between * loss
            within = loss - l_b + hidden
            search = (within / (within + (1 - l_b.sqrt()) ** 2)).max()
            found = worst_nc1(torch.tensor(loss, dtype=torch.float64), torch.tensor(hidden, dtype=torch.float64))
            # The search can only miss the maximum, by its grid: second order in 5e-6 over the curvature.
            assert float(search) <= float(found) * (1 + 1e-12)
            assert float(found) == pytest.approx(float(search), rel=1e-5)
    assert float(worst_nc1(torch.tensor(1.2), torch.tensor(0.0))) == 1.0


def test_certificate_in_numpy():
    rng = np.random.default_rng(3)
    labels = np.array([0, 0, 0, 1, 1, 2])
    Y, H, W, gamma = np.eye(3)[labels], rng.standard_normal((6, 5)), rng.standard_normal((5, 3)), 1.7
    B = W @ np.linalg.inv(W.T @ W)
    r = gamma * H @ W - Y

    def centre(Z):
        return Z - Z.mean(axis=0)

    def within(Z):
        return Z - np.array([Z[labels == k].mean(axis=0) for k in labels])

    T = np.sum((centre(Y) @ B.T) ** 2)
    Q = centre(H) @ (np.eye(5) - B @ W.T)
    found = certificate(*(torch.tensor(Z) for Z in (H, W, Y)), torch.tensor(gamma, dtype=torch.float64))
    assert float(found.loss_term) == pytest.approx(np.sum((centre(r) @ B.T) ** 2) / T, rel=1e-12)
    assert float(found.range_term) == pytest.approx(gamma**2 * np.sum(within(Q) ** 2) / T, rel=1e-12)
    inner = np.sum(centre(H) * (centre(Y) @ B.T))
    assert float(found.angle) == pytest.approx(1 - inner**2 / (np.sum(centre(H) ** 2) * T), rel=1e-12)


def test_the_bound_of_a_centred_head_in_numpy():
    rng = np.random.default_rng(4)
    labels = np.array([0, 0, 0, 1, 1, 2, 2])
    Y, W, bias, gamma = np.eye(3)[labels], rng.standard_normal((5, 3)), rng.standard_normal(3), 1.7
    C = np.linalg.pinv(W - W.mean(axis=1, keepdims=True), rcond=1e-10)
    H = (Y - 1 / 3) @ C / gamma + 0.05 * rng.standard_normal((7, 5))
    r = gamma * H @ W + bias - Y

    def centre(Z):
        return Z - Z.mean(axis=0)

    P = (W - W.mean(axis=1, keepdims=True)) @ C
    hidden = np.sum((centre(H) @ (np.eye(5) - P)) ** 2)
    expected = (np.sum((centre(r) @ C) ** 2) + gamma**2 * hidden) / np.sum((centre(Y) @ C) ** 2)
    assert expected < 0.9
    features, residuals = (class_statistics(torch.tensor(Z), torch.tensor(Y)) for Z in (H, r))
    found = centred_head_bound(features, residuals, torch.tensor(W), torch.tensor(gamma, dtype=torch.float64))
    assert float(found) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("has_bias", [False, True])
def test_statistics_of_batches_give_the_certificate_of_all_samples(has_bias):
    """Collapsed to 1e-6 far from the origin, where moments about zero would have no digit left."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.cat([torch.arange(4), torch.randint(4, (56,), generator=generator)])
    Y = torch.nn.functional.one_hot(labels, 4).double()
    W = torch.randn(9, 4, dtype=torch.float64, generator=generator)
    offset = 1e3 * torch.randn(9, dtype=torch.float64, generator=generator)
    Z = Y @ torch.linalg.pinv(W) / 0.7 + 1e-6 * torch.randn(60, 9, dtype=torch.float64, generator=generator)
    H, gamma = Z + offset, torch.tensor(0.7, dtype=torch.float64)
    bias = -0.7 * offset @ W
    r = 0.7 * H @ W + bias - Y
    features, residuals = (class_statistics(H[:7], Y[:7]), class_statistics(r[:7], Y[:7]))
    for part in (slice(7, 8), slice(8, 50), slice(50, 60)):
        features = merge(features, class_statistics(H[part], Y[part]))
        residuals = merge(residuals, class_statistics(r[part], Y[part]))
    found = certificate_of_statistics(features, residuals, W, gamma)
    expected = certificate(Z, W, Y, gamma, torch.zeros(4, dtype=torch.float64) if has_bias else None)
    assert float(expected.nc1_bound) < 1e-10
    for name in ("nc1_bound", "loss_term", "range_term"):
        # Features at 1e3 are stored to 1e-13, their deviations of 1e-6 to 1e-7; without a bias r is the same.
        assert float(getattr(found, name)) == pytest.approx(float(getattr(expected, name)), rel=1e-5), name


@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
def test_closed_form_from_loss_and_gradient(gamma):
    """As stated: through R = λ_ρH + (γ/n)KrWᵀ, the second-layer gradient contracted with the activations."""
    N, n, d, p, q, lam = 40, 12, 3, 5, 3, 0.01
    networks = networks_of(1, N, d, p, q, gamma=gamma)
    X = torch.randn(1, n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    Y = torch.nn.functional.one_hot(torch.arange(n) % q, q).double()[None]
    # Scale the second layer so that the network fits well enough for the bound to say something.
    networks.A.mul_(0.02)
    H = networks.features(X)
    missing = Y @ torch.linalg.pinv(networks.W) / gamma - H
    networks.A.add_(torch.linalg.pinv(torch.tanh(X @ networks.U.mT)) @ (N * missing))

    g, H = compute_loss_gradients(networks, X, Y), networks.features(X)
    S = torch.tanh(X @ networks.U.mT)
    R = S @ (g.A + lam * networks.A) / N
    W = networks.W.data
    P = W @ torch.linalg.inv(W.mT @ W) @ W.mT
    r = gamma * H @ W - Y
    sigma = torch.linalg.svdvals(W)[0]
    kappa, c = sigma[0] / sigma[-1], q / (q - 1)
    hidden = gamma**2 * sigma[0] ** 2 / n * square_norm(within_class(R - R @ P, Y)) / lam**2
    simple = c * (2 * kappa**2 * square_norm(r) / (2 * n) + hidden)
    A = c * (2 * kappa**2 * square_norm(within_class(r, Y)) / (2 * n) + hidden)
    l_b = c * kappa**2 * square_norm(centre(r) - within_class(r, Y)) / n
    expected = torch.stack([torch.ones(1, dtype=torch.float64), simple, A / (A + (1 - l_b.sqrt()) ** 2)]).min()
    found = certificate(H, W, Y, torch.tensor([gamma], dtype=torch.float64)).closed_form
    assert float(expected) < 0.9
    # R(I − P)/λ_ρ cancels terms of size 1/λ_ρ.
    assert float(found) == pytest.approx(float(expected), rel=1e-9)
