import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nc_sweeps import kernels
from nc_sweeps.activations import ACTIVATIONS
from nc_sweeps.metrics.statistics import one_hot
from nc_sweeps.models import first_layer
from tests.networks import REFERENCE, networks_of


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_and_slope(name):
    activation = ACTIVATIONS[name]
    z = torch.linspace(-6, 6, 1001, dtype=torch.float64, requires_grad=True)
    expected = REFERENCE[name](z)
    (slope,) = torch.autograd.grad(expected.sum(), z)
    value = activation.value(z.detach().clone())
    # Two ulps of 1 from 2·sigmoid − 1; the slopes amplify them at most by the bound of σ''.
    torch.testing.assert_close(value, expected.detach(), rtol=1e-15, atol=5e-16)
    torch.testing.assert_close(activation.slope(value), slope, rtol=1e-12, atol=2e-15)
    assert (value.abs() <= activation.bound).all()


@pytest.mark.parametrize("name", [name for name, activation in ACTIVATIONS.items() if activation.c1 < float("inf")])
def test_c1_bounds_every_derivative_of_assumption_1(name):
    z = torch.linspace(-12, 12, 20001, dtype=torch.float64, requires_grad=True)
    derivatives = [REFERENCE[name](z)]
    for _ in range(3):
        derivatives.append(torch.autograd.grad(derivatives[-1].sum(), z, create_graph=True)[0])
    derivatives.append(torch.autograd.grad((z * derivatives[1]).sum(), z)[0])
    largest = max(float(derivative.detach().abs().max()) for derivative in derivatives)
    assert largest <= ACTIVATIONS[name].c1 * (1 + 1e-12)
    assert largest > 0.9 * ACTIVATIONS[name].c1


@pytest.mark.parametrize("compiled", [True, False])
def test_features_are_a_mean_over_particles_block_by_block(monkeypatch, compiled):
    monkeypatch.setattr(first_layer, "BLOCK_ELEMENTS", 1)
    monkeypatch.setattr(first_layer, "MIN_BLOCK_PARTICLES", 5)
    if not compiled:
        monkeypatch.setattr(kernels, "supports", lambda *_: False)
    networks = networks_of(2, 23, 3, 4, 2, gamma=1.5)
    X = torch.randn(2, 6, 3, dtype=torch.float64)
    expected = torch.einsum("rnj,rjp->rnp", torch.tanh(torch.einsum("rnd,rjd->rnj", X, networks.U)), networks.A) / 23
    torch.testing.assert_close(networks.features(X), expected, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(networks(X), 1.5 * expected @ networks.W, rtol=1e-13, atol=1e-15)


@given(st.integers(1, 4), st.integers(2, 5), st.integers(0, 3))
def test_initial_head_is_orthonormal(runs, q, extra):
    W = networks_of(runs, 2, 3, q + extra, q).W
    torch.testing.assert_close(W.mT @ W, torch.eye(q, dtype=torch.float64).expand(runs, q, q), rtol=0, atol=1e-14)


def test_initial_particles_are_independent_of_width_packing_and_precision():
    wide, narrow = networks_of(3, 50, 4, 5, 3), networks_of(1, 20, 4, 5, 3)
    assert torch.equal(wide.U[:1, :20], narrow.U)
    assert torch.equal(wide.A[:1, :20], narrow.A)
    assert torch.equal(wide.W[:1], narrow.W)
    single = networks_of(3, 50, 4, 5, 3, dtype=torch.float32)
    assert torch.equal(wide.U.float(), single.U)


def test_one_hot():
    assert torch.equal(one_hot(torch.tensor([[0, 2]]), 3, torch.float32), torch.tensor([[[1.0, 0, 0], [0, 0, 1]]]))
