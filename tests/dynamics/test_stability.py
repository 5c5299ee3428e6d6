"""The operator against autograd, the value against all eigenvalues, and the edge against a flow."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nc_sweeps import kernels
from nc_sweeps.activations import ACTIVATIONS
from nc_sweeps.dynamics.stability import GaussNewton, find_largest_eigenvalue
from nc_sweeps.models import first_layer
from nc_sweeps.models.mean_field import MeanFieldNetworks
from nc_sweeps.models.truncation import Truncation
from tests.networks import REFERENCE, data, networks_of


def matrix_of(networks, X, head_moves, activation):
    """Θ of every run as a matrix, by autograd's Jacobian of an independent forward pass."""
    N, truncation = networks.U.shape[1], networks.truncation

    def predict(run, U, A, W):
        second = A if truncation is None else truncation.value(A)
        S = REFERENCE[activation](X[run] @ U.T)
        return (networks.gamma[run] * S @ second @ W / N).flatten()

    matrices = []
    for run in range(networks.runs):
        layers = tuple(Z[run].detach() for Z in (networks.U, networks.A, networks.W))
        jacobians = torch.autograd.functional.jacobian(lambda *Z, run=run: predict(run, *Z), layers)
        J_U, J_A, J_W = (J.flatten(1) for J in jacobians)
        matrices.append(N * (J_U @ J_U.T + J_A @ J_A.T) + head_moves[run] * J_W @ J_W.T)
    return torch.stack(matrices)


def applied_to_basis(operator, runs, n, q):
    basis = torch.eye(n * q, dtype=torch.float64).reshape(n * q, 1, n, q).expand(-1, runs, -1, -1)
    return torch.stack([operator.apply(v.contiguous()) for v in basis], dim=1).flatten(2)


@settings(deadline=None, max_examples=60)
@given(
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    shape=st.tuples(*(st.integers(1, top) for top in (3, 30, 6, 5, 4, 3))),
    seed=st.integers(0, 2**31),
    kept=st.booleans(),
    truncated=st.booleans(),
    compiled=st.booleans(),
)
def test_the_operator_is_that_of_autograd_symmetric_and_positive(activation, shape, seed, kept, truncated, compiled):
    runs, N, n, d, extra, q = shape
    p = q + extra - 1
    generator = torch.Generator().manual_seed(seed)

    def randn(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    truncation = Truncation(radius=0.7, c0=0.4) if truncated else None
    layers = randn(runs, N, d), randn(runs, N, p), randn(runs, p, q)
    networks = MeanFieldNetworks(*layers, 1 + randn(runs).abs(), ACTIVATIONS[activation], truncation)
    X, head_moves = randn(runs, n, d), torch.rand(runs, generator=generator) < 0.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(first_layer, "BLOCK_ELEMENTS", 1)
        patch.setattr(first_layer, "MIN_BLOCK_PARTICLES", 7)  # several blocks, the last one short
        patch.setattr(first_layer, "KEPT_ELEMENTS", 10**9 if kept else 0)
        if not compiled:
            patch.setattr(kernels, "supports", lambda *_: False)
        operator = GaussNewton(networks, X, head_moves)
        found = applied_to_basis(operator, runs, n, q)
        counts = torch.randint(1, 5, (runs,), generator=generator)
        basis, images = operator.span(randn(runs, n, q), counts)
    expected = matrix_of(networks, X, head_moves, activation)
    scale = expected.abs().max() + 1e-300
    assert (found - expected).abs().max() <= 1e-12 * scale
    assert (found - found.mT).abs().max() <= 1e-12 * scale
    assert torch.linalg.eigvalsh((found + found.mT) / 2).min() >= -1e-12 * scale
    basis, images = basis.flatten(2), images.flatten(2)
    assert (images - basis @ expected).abs().max() <= 1e-12 * scale
    products = basis @ basis.mT
    for run, product in enumerate(products):
        kept = product.diagonal() > 0.5
        assert not kept[counts[run] :].any()
        torch.testing.assert_close(product, torch.diag(kept.double()), rtol=0, atol=1e-9)


@settings(deadline=None, max_examples=30)
@given(
    shape=st.tuples(*(st.integers(1, top) for top in (3, 30, 8, 5, 3))), seed=st.integers(0, 2**31), one=st.booleans()
)
def test_the_value_is_a_rayleigh_quotient_and_converges_to_the_largest_eigenvalue(shape, seed, one):
    """In spaces of fewer dimensions than applications, too."""
    runs, N, n, d, q = shape
    networks = networks_of(runs, N, d, q + 1, q, gamma=1.7)
    X, _ = data(runs, n, d, q)
    operator = GaussNewton(networks, X, torch.ones(runs, dtype=torch.bool))
    expected = torch.linalg.eigvalsh(matrix_of(networks, X, [1] * runs, "tanh"))[:, -1]
    v = torch.randn(runs, n, q, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    counts = torch.tensor([1 if one else 4] * runs)
    value, direction = find_largest_eigenvalue(operator, v, counts)
    assert (value <= expected * (1 + 1e-12)).all()
    quotient = (direction * operator.apply(direction)).sum(dim=(1, 2))
    torch.testing.assert_close(quotient, value, rtol=1e-11, atol=0)
    torch.testing.assert_close(direction.square().sum(dim=(1, 2)), torch.ones(runs, dtype=torch.float64))
    largest, _ = find_largest_eigenvalue(operator, v, torch.tensor([n * q] * runs))
    torch.testing.assert_close(largest, expected, rtol=1e-6, atol=0)
    # A companion that takes more applications changes nothing.
    mixed = counts.clone()
    mixed[1:] = 6
    alone, _ = find_largest_eigenvalue(operator, v, mixed)
    torch.testing.assert_close(alone[0], value[0], rtol=1e-13, atol=0)


def test_what_is_zero_and_what_overflows_harms_no_companion():
    networks = networks_of(3, 5, 2, 3, 2, dtype=torch.float32)
    X, _ = data(3, 4, 2, 2, torch.float32)
    networks.W[1], networks.A[1] = 0.0, 0.0
    networks.W[2] = 1e25
    v = torch.ones(3, 4, 2)
    value, direction = find_largest_eigenvalue(GaussNewton(networks, X, torch.ones(3) > 0), v, torch.tensor([4, 4, 4]))
    assert value[0] > 0
    assert value[1] == 0
    assert value[2].isnan()
    assert torch.equal(direction[1:], v[1:])
