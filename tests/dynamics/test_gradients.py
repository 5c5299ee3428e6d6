import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nc_sweeps import kernels
from nc_sweeps.activations import ACTIVATIONS
from nc_sweeps.dynamics.gradients import compute_loss_gradients, linearise
from nc_sweeps.metrics.statistics import one_hot
from nc_sweeps.models import first_layer
from nc_sweeps.models.mean_field import MeanFieldNetworks
from nc_sweeps.models.truncation import Truncation
from tests.networks import REFERENCE


def autograd(networks, X, Y, activation):
    """Mean-field gradients of every run's own loss, by autograd through an independent forward pass."""
    U, A, W = (Z.detach().clone().requires_grad_() for Z in (networks.U, networks.A, networks.W))
    N = U.shape[1]
    second = A if networks.truncation is None else networks.truncation.value(A)
    H = torch.einsum("rnj,rjp->rnp", REFERENCE[activation](torch.einsum("rnd,rjd->rnj", X, U)), second) / N
    F = networks.gamma[:, None, None] * H @ W
    loss = ((F - Y) ** 2).sum() / (2 * X.shape[1])
    g_U, g_A, g_W = torch.autograd.grad(loss, (U, A, W))
    return {"U": N * g_U, "A": N * g_A, "W": g_W}


@settings(deadline=None)
@given(
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    gamma=st.floats(0.1, 10.0),
    shape=st.tuples(*(st.integers(1, top) for top in (3, 40, 9, 6, 5, 4))),
    seed=st.integers(0, 2**31),
    kept=st.booleans(),
    truncated=st.booleans(),
    compiled=st.booleans(),
)
def test_gradients_are_those_of_autograd(activation, gamma, shape, seed, kept, truncated, compiled):
    runs, N, n, d, extra, q = shape
    p = q + extra - 1
    generator = torch.Generator().manual_seed(seed)

    def randn(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    scale = gamma * (1 + randn(runs).abs())
    layers = randn(runs, N, d), randn(runs, N, p), randn(runs, p, q)
    truncation = Truncation(radius=0.7, c0=0.4) if truncated else None
    networks = MeanFieldNetworks(*layers, scale, ACTIVATIONS[activation], truncation)
    X = randn(runs, n, d)
    Y = one_hot(torch.randint(q, (runs, n), generator=generator), q, torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(first_layer, "BLOCK_ELEMENTS", 1)
        patch.setattr(first_layer, "MIN_BLOCK_PARTICLES", 7)  # several blocks, the last one short
        patch.setattr(first_layer, "KEPT_ELEMENTS", 10**9 if kept else 0)
        if not compiled:
            patch.setattr(kernels, "supports", lambda *_: False)
        found = compute_loss_gradients(networks, X, Y)
        decay = torch.rand(runs, generator=generator, dtype=torch.float64)
        measured = linearise(networks, X, Y, decay)
    expected = autograd(networks, X, Y, activation)
    for name, gradient in expected.items():
        error = (getattr(found, name) - gradient).norm() / gradient.norm().clamp(min=1e-300)
        assert error < 1e-10, name
    S = REFERENCE[activation](torch.einsum("rnd,rjd->rnj", X, networks.U)) / N
    of_a = expected["A"] + decay[:, None, None] * networks.A
    expected |= {"H": S @ networks.second_layer, "R": S @ of_a}
    for name in ("A", "U", "H", "R"):
        # R is a mean of what may cancel.
        scale = expected[name].norm() if name != "R" else (S.abs() @ of_a.abs()).norm()
        assert (getattr(measured, name) - expected[name]).norm() <= 1e-10 * scale, name
