"""Every metric of the catalogue has one function, which says what it needs."""

import pytest
import torch

from nc_sweeps.data import load
from nc_sweeps.metrics.catalogue import METRICS
from nc_sweeps.training.ensembles import FlowEnsemble, LoadedRun
from nc_sweeps.training.measurements import MEASUREMENTS, measure
from nc_sweeps.training.registry import computes
from tests.configs import SMALL_STAGE_ONE, tiny
from tests.doubles import MemoryRecord


def snapshot_of(*overrides):
    config = tiny(*overrides)
    return FlowEnsemble([LoadedRun(config, load(config.dataset), MemoryRecord())])._build_module().take_snapshot()


def test_every_metric_of_particles_is_computed_by_one_function():
    assert tuple(MEASUREMENTS) == tuple(name for name, metric in METRICS.items() if metric.networks != "parameters")


def test_a_metric_has_one_function_and_an_entry_in_the_catalogue():
    with pytest.raises(ValueError, match="nc1/trian: the catalogue has no such metric"):
        computes("nc1/trian")
    with pytest.raises(ValueError, match="nc1/train: another function computes this metric"):
        computes("nc1/train")


@pytest.mark.parametrize(
    "overrides", [(*SMALL_STAGE_ONE, "dynamics.stage_one=20"), ("dynamics=gradient_flow", "compute.precision=64-true")]
)
def test_a_metric_alone_has_the_value_that_it_has_among_all(overrides):
    snapshot = snapshot_of(*overrides)
    together = measure(snapshot, tuple(MEASUREMENTS))
    assert list(together) == list(MEASUREMENTS)
    for name in MEASUREMENTS:
        alone = measure(snapshot, [name])
        # Features of the pass for gradients and of a pass of their own differ by roundings.
        assert alone == {name: [pytest.approx(together[name][0], rel=1e-10, abs=1e-14, nan_ok=True)]}


def test_what_no_metric_said_it_needs_is_refused():
    snapshot = snapshot_of()
    assert measure(snapshot, ["gradient_norm/a"])["gradient_norm/a"][0] > 0
    with torch.no_grad():
        with pytest.raises(RuntimeError, match="has to say that it needs them"):
            MEASUREMENTS["gradient_norm/a"].function(snapshot)
        with pytest.raises(RuntimeError, match="has to say so"):
            MEASUREMENTS["nc1/test"].function(snapshot)
