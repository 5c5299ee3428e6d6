import math
from itertools import pairwise

import pytest
import torch

from nc_sweeps.counters import Stream, normals
from nc_sweeps.dynamics.flow import NEVER, Flow, Hyperparameters
from nc_sweeps.dynamics.gradients import compute_loss_gradients
from nc_sweeps.dynamics.integrators import INTEGRATORS
from nc_sweeps.dynamics.schedule import Piece, Schedule
from tests.networks import data, hyperparameters, networks_of


def test_one_euler_step_is_the_update_of_the_paper():
    networks, (X, Y) = networks_of(1, 9, 3, 4, 2, gamma=1.3), data(1, 6, 3, 2)
    before = {name: Z.clone() for name, Z in networks.state_dict().items()}
    g = compute_loss_gradients(networks, X, Y)
    eta, lam, beta = 0.1, 0.02, 50.0
    hyper = hyperparameters(beta=beta, lambda_rho=lam, lambda_w=0.03)
    Flow(networks, INTEGRATORS["euler_maruyama"], hyper, None, torch.tensor([0])).advance(X, Y, 0, 1)
    xi = normals(torch.tensor([4]), Stream.NOISE, 1, torch.arange(9), 7, torch.float64)
    expected = {
        "A": before["A"] - eta * (g.A + lam * before["A"]) + math.sqrt(2 * eta / beta) * xi[..., :4],
        "U": before["U"] - eta * (g.U + lam * before["U"]) + math.sqrt(2 * eta / beta) * xi[..., 4:],
        "W": before["W"] - eta * (g.W + 0.03 * before["W"]),
    }
    for name, value in expected.items():
        torch.testing.assert_close(getattr(networks, name).data, value, rtol=1e-14, atol=1e-15)


def test_a_fixed_head_does_not_move():
    networks, (X, Y) = networks_of(1, 9, 3, 4, 2), data(1, 6, 3, 2)
    W = networks.W.clone()
    hyper = hyperparameters(beta=10.0, lambda_rho=0.1, lambda_w=0.1)
    Flow(networks, INTEGRATORS["exponential"], hyper, None, torch.tensor([NEVER])).advance(X, Y, 0, 10)
    assert torch.equal(networks.W, W)


@pytest.mark.parametrize("step_size", [0.2, 5.0])
def test_without_a_loss_the_flow_samples_the_ornstein_uhlenbeck_law(step_size):
    """With γ = 0 the particles are an Ornstein–Uhlenbeck process from N(0, I), whatever the step size."""
    N, lam, beta, steps = 20_000, 0.3, 4.0, 3
    networks, (X, Y) = networks_of(1, N, 2, 3, 2, gamma=0.0), data(1, 4, 2, 2)
    start = torch.cat([networks.A.data, networks.U.data], dim=-1)[0].clone()
    hyper = hyperparameters(beta=beta, lambda_rho=lam, lambda_w=lam, step_size=step_size, steps=steps)
    Flow(networks, INTEGRATORS["exponential"], hyper, None, torch.tensor([0])).advance(X, Y, 0, steps)
    end = torch.cat([networks.A.data, networks.U.data], dim=-1)[0]

    decay = math.exp(-lam * step_size * steps)
    noise = end - decay * start
    variance = (1 - decay**2) / (lam * beta)
    # Entries of the empirical covariance deviate by variance·√(2/N); 5 standard deviations.
    deviation = 5 * math.sqrt(2 / N)
    assert (torch.cov(noise.T) / variance - torch.eye(5)).abs().max() < deviation
    cross = (noise.T @ start) / N / math.sqrt(variance)
    assert cross.abs().max() < deviation


@pytest.mark.parametrize("batch_size", [None, 5])
@pytest.mark.parametrize("beta", [math.inf, 30.0])
def test_stopping_changes_nothing(batch_size, beta):
    X, Y = data(1, 12, 3, 2)

    def run(*stops):
        networks = networks_of(1, 9, 3, 4, 2)
        hyper = hyperparameters(beta=beta, lambda_rho=0.1, lambda_w=0.1, per_epoch=3)
        for first, last in pairwise(stops):
            Flow(networks, INTEGRATORS["euler_maruyama"], hyper, batch_size, torch.tensor([0])).advance(
                X, Y, first, last
            )
        return networks.state_dict()

    whole, parts = run(0, 10), run(0, 1, 4, 10)
    for name, value in whole.items():
        assert torch.equal(value, parts[name])


def test_two_stages():
    """Each head starts to move after its own step, as if two flows had been run one after the other."""
    X, Y = data(2, 12, 3, 2)

    def hyper(runs):
        columns = (torch.full((runs,), value, dtype=torch.float64) for value in (30.0, 0.1, 0.2))
        schedule = Schedule((Piece(0, 10, 0.1),), 1)
        return Hyperparameters(torch.arange(runs), *columns, (schedule,) * runs)

    both = networks_of(2, 9, 3, 4, 2)
    Flow(both, INTEGRATORS["exponential"], hyper(2), None, torch.tensor([4, 7])).advance(X, Y, 0, 10)
    for run, start in enumerate((4, 7)):
        alone = networks_of(2, 9, 3, 4, 2)
        W = alone.W.clone()
        Flow(alone, INTEGRATORS["exponential"], hyper(2), None, torch.tensor([NEVER, NEVER])).advance(X, Y, 0, start)
        assert torch.equal(alone.W, W)
        Flow(alone, INTEGRATORS["exponential"], hyper(2), None, torch.tensor([0, 0])).advance(X, Y, start, 10)
        for layer in ("U", "A", "W"):
            torch.testing.assert_close(getattr(both, layer)[run], getattr(alone, layer)[run], rtol=1e-13, atol=1e-15)
        assert not torch.equal(alone.W, W)


def test_a_flow_moves_with_all_its_numbers():
    hyper = hyperparameters(beta=10.0, lambda_rho=0.1, lambda_w=0.1)
    flow = Flow(networks_of(1, 9, 3, 4, 2), INTEGRATORS["exponential"], hyper, None, torch.tensor([0]))
    types = {name: Z.dtype for name, Z in flow.named_buffers()}
    assert types["seeds"] == types["head_start"] == torch.int64
    assert all(types[f"law.{name}"] == torch.float64 for name in ("beta", "lambda_rho", "lambda_w", "D", "spread"))
    flow.to("meta")
    assert all(Z.is_meta for Z in (*flow.buffers(), *flow.parameters()))
    assert {name: Z.dtype for name, Z in flow.named_buffers()} == types
    assert not any(isinstance(value, torch.Tensor) for module in flow.modules() for value in vars(module).values())


@pytest.mark.parametrize("batch_size", [None, 5])
def test_a_flow_goes_on_from_its_state(batch_size):
    """λ_ρ ≠ λ_W and a head that is still held: the law and the end of stage 1 are part of the state."""
    X, Y = data(1, 12, 3, 2)
    hyper = hyperparameters(beta=30.0, lambda_rho=0.1, lambda_w=0.2, per_epoch=3)

    def start(head_start):
        head_start = torch.tensor([head_start])
        return Flow(networks_of(1, 9, 3, 4, 2), INTEGRATORS["exponential"], hyper, batch_size, head_start)

    whole, first, second = start(6), start(6), start(0)
    whole.advance(X, Y, 0, 10)
    first.advance(X, Y, 0, 4)
    second.restore([first.state(0)])
    second.advance(X, Y, 4, 10)
    expected, found = whole.state(0), second.state(0)
    assert set(expected) == {"U", "A", "W", "law.D", "law.spread", "head_start"}
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
