"""What is recorded of the stability of steps: near the eigenvalue from below, resumable, and 2 at the edge."""

import pytest
import torch

from nc_sweeps.data import load
from nc_sweeps.dynamics.stability import GaussNewton
from nc_sweeps.training.ensembles import FlowEnsemble, LoadedRun
from tests.configs import tiny
from tests.doubles import MemoryRecord
from tests.training.recorded import train

ONLY = ("metrics.include=[step/stability]", "optimized_metric=step/stability", "compute.precision=64-true")
CHANGES = ("dynamics.horizon=400", "dynamics.schedule=[{after: 0.5, step_size: 0.05}]", "metrics.points=30")


def module_of(*overrides, state=None, step=0):
    config = tiny(*ONLY, *overrides)
    run = LoadedRun(config, load(config.dataset), MemoryRecord(), step, state)
    return FlowEnsemble([run])._build_module()


def find_eigenvalue(module, head_moves):
    """λ_max of Θ from its whole matrix."""
    _, n, q = module.Y.shape
    operator = GaussNewton(module.networks, module.X, torch.tensor([head_moves]))
    basis = torch.eye(n * q, dtype=torch.float64).reshape(n * q, 1, n, q)
    matrix = torch.stack([operator.apply(v).flatten() for v in basis])
    return float(torch.linalg.eigvalsh((matrix + matrix.mT) / 2)[-1])


@pytest.mark.parametrize("dynamics", [(), ("dynamics=two_stage", "dynamics.beta=100", "dynamics.stage_one=100")])
def test_it_is_that_of_the_next_step_from_below_along_a_whole_run(dynamics):
    module = module_of(*dynamics, *CHANGES)
    samples, gaps, step = module.X.shape[1], [], 0
    for stop in range(0, 401, 20):
        if stop:
            module.training_step((step, stop), 0)
            step = stop
        (value,) = module.measure(["step/stability"])["step/stability"]
        step_size = module.schedules[0].step_size(min(step + 1, 400))
        assert step_size == (0.05 if step >= 200 else module.schedules[0].step_size(1))
        held = step < 100 and bool(dynamics)
        exact = step_size * find_eigenvalue(module, not held) / samples
        gaps.append(1 - value / exact)
    assert min(gaps) >= -1e-12
    assert max(gaps) < 0.03
    assert sum(gaps) / len(gaps) < 0.01


def test_a_checkpoint_without_a_direction_begins_with_one_that_the_seed_gives():
    module = module_of(*CHANGES)
    module.training_step((0, 20), 0)
    state = module.state(0)
    assert not any("stability" in name for name in state)
    first = module.measure(["step/stability"])
    assert module.state(0)["stability.direction"].shape == module.Y.shape[1:]
    again = module_of(*CHANGES, state=state, step=20)
    assert again.measure(["step/stability"]) == first
    with_direction = module_of(*CHANGES, state=module.state(0), step=20)
    assert with_direction.measure(["step/stability"])["step/stability"][0] > first["step/stability"][0]


def test_training_sharpens_up_to_the_edge_and_rides_it_where_a_smaller_step_does_not_come_near():
    overrides = ("separation.margin=-0.1", "width.particles=64", "dataset.train_per_class=30", "dynamics.horizon=1000",
                 "dynamics.horizon_unit=time", "metrics.spacing=linear", "metrics.points=21")  # fmt: skip
    late = {}
    for step_size in (1, 0.2):
        (record,) = train(tiny(*ONLY, *overrides, f"dynamics.step_size={step_size}"))
        late[step_size] = [row["step/stability"] for row in record.rows][10:]
    assert sum(late[1]) / len(late[1]) == pytest.approx(2, abs=0.1)
    assert max(late[0.2]) < 1.5
