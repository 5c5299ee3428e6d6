"""Balancedness, loss and error agree with definitions in NumPy, sample by sample."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nc_sweeps.metrics.balancedness import balancedness
from nc_sweeps.metrics.centring import centre, square_norm, within_class
from nc_sweeps.metrics.prediction import balanced_error, mean_square_loss


@st.composite
def states(draw):
    """Draw features, labels (unbalanced, with every class) and heads."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    q = draw(st.integers(2, 5))
    p = q + draw(st.integers(0, 4))
    n = q + draw(st.integers(1, 30))
    labels = np.concatenate([np.arange(q), rng.integers(q, size=n - q)])
    offset = draw(st.sampled_from([0.0, 1.0, 100.0]))
    H = rng.standard_normal((n, p)) + rng.standard_normal((q, p))[labels] * draw(st.floats(0, 10)) + offset
    return H, labels, rng.standard_normal((p, q)), q


def targets(labels, q):
    return torch.nn.functional.one_hot(torch.tensor(labels), q).double()


@given(states())
def test_within_and_between_are_orthogonal(state):
    H, labels, _, q = state
    H, Y = torch.tensor(H), targets(labels, q)
    within = within_class(H, Y)
    between = centre(H) - within
    assert abs(float((within * between).sum())) <= 1e-12 * float(square_norm(H))
    np.testing.assert_allclose((Y.mT @ within).numpy(), 0, atol=1e-11 * np.abs(H.numpy()).max())


@settings(deadline=None)
@given(states(), st.integers(1, 50))
def test_balancedness(state, particles):
    _, _, W, _ = state
    A = np.random.default_rng(particles).standard_normal((particles, len(W)))
    second = A.T @ A / particles
    gram = W @ W.T
    scale = np.trace(second @ gram) / np.trace(gram @ gram)
    expected = np.linalg.norm(second - scale * gram, 2) / np.linalg.norm(second, 2)
    assert float(balancedness(torch.tensor(second), torch.tensor(W))) == pytest.approx(expected, rel=1e-10)


def test_balancedness_of_balanced_and_of_vanishing_layers():
    W = torch.randn(5, 3, dtype=torch.float64)
    assert float(balancedness(4 * W @ W.mT, W)) < 1e-15
    assert torch.isnan(balancedness(W @ W.mT, torch.zeros_like(W)))
    assert torch.isnan(balancedness(torch.zeros(5, 5, dtype=torch.float64), W))
    infinite = torch.full((5, 5), torch.inf, dtype=torch.float64)
    batched = balancedness(torch.stack([4 * W @ W.mT, W @ W.mT, infinite]), torch.stack([W, torch.zeros_like(W), W]))
    assert batched.isnan().tolist() == [False, True, True]


@given(states())
def test_errors(state):
    H, labels, W, q = state
    F = H @ W
    wrong = F.argmax(axis=1) != labels
    expected = np.mean([wrong[labels == k].mean() for k in range(q)])
    assert float(balanced_error(torch.tensor(F), targets(labels, q))) == pytest.approx(expected, abs=1e-15)
    loss = sum(np.sum((f - np.eye(q)[k]) ** 2) for f, k in zip(F, labels, strict=True)) / (2 * len(F))
    assert float(mean_square_loss(torch.tensor(F), targets(labels, q))) == pytest.approx(loss, rel=1e-12)


def test_balanced_error_without_a_class_is_undefined():
    assert torch.isnan(balanced_error(torch.randn(4, 3, dtype=torch.float64), targets([0, 0, 1, 1], 3)))
