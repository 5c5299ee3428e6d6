"""A step in PyTorch's operations as a program of its own."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from nc_sweeps import kernels
from nc_sweeps.dynamics.batches import MiniBatches
from nc_sweeps.dynamics.integrators import Coefficients
from nc_sweeps.dynamics.steps import Steps
from tests.networks import data, networks_of


@pytest.mark.parametrize("activation", ["tanh", "erf"])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_one_recording_of_a_step_serves_for_all(activation, noise, monkeypatch):
    """Recording fails where a value is read back; a number that went in as a constant would be that of step 1 later."""
    monkeypatch.setattr(kernels, "supports", lambda *_: False)
    (X, Y), seeds = data(2, 9, 3, 2), torch.tensor([4, 5])
    particles, head = (Coefficients(*torch.tensor([[-0.01, -0.02], [0.1, 0.2], [s, s]])) for s in (noise, 0.0))

    def steps():
        networks = networks_of(2, 7, 3, 4, 2, activation)
        return Steps(networks, X, Y, seeds, MiniBatches(seeds, 9, 3), particles, head)

    expected, found = steps(), steps()
    expected.take(2**32 - 2, 2**32 + 1, record_heads=False)

    start = {name: Z.clone() for name, Z in found.networks.state_dict().items()}
    found.take_one(torch.tensor(1), X[:, :3], Y[:, :3])

    def step(number, X, Y):
        found.take_one(number, X, Y)

    recorded = make_fx(step)(torch.tensor(1), X[:, :3], Y[:, :3])
    found.networks.load_state_dict(start)
    runs = torch.arange(2)[:, None]
    for number in range(2**32 - 1, 2**32 + 2):
        chosen = found.batches.of(number)
        recorded(torch.tensor(number), X[runs, chosen], Y[runs, chosen])
    for name, Z in expected.networks.state_dict().items():
        assert torch.equal(found.networks.state_dict()[name], Z), name
        assert not torch.equal(start[name], Z), name
