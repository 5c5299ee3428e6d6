"""Statistics of BatchNorm in measurements: right, named, and without a trace in the training."""

import polars as pl
import pytest
import torch
from torch import nn

from nc_sweeps.config import add_later_keys, compute_signature
from nc_sweeps.data import load
from nc_sweeps.report.results import _name_batch_norm
from nc_sweeps.training.batch_norm import STATISTICS, find_batch_norms, mix_into_batches, use_statistics
from nc_sweeps.training.ensembles import DeepEnsemble, LoadedRun
from nc_sweeps.training.seconds import count_work
from tests.configs import config_of, refusal
from tests.doubles import MemoryRecord

#: 30 digits of 8×8 pixels, six steps.
FEW = (
    "dataset=digits", "dataset.train_per_class=3", "dataset.test_per_class=2", "dynamics.batch_size=12",
    "dynamics.horizon=2", "compute.threads=1", "metrics.points=3",
)  # fmt: skip
#: Steps so small that the loss of ResNet-18 falls from the first one on.
SLOW = ("dynamics.step_size=0.001",)
#: Signature of ``model=vgg11`` with the above before there was a choice of statistics.
SIGNATURE_BEFORE = "ed54f9c243de"


def deep(*overrides):
    return config_of(*FEW, *overrides)


def train(config):
    """Return the trained module of a configuration, and the record of the run."""
    ensemble = DeepEnsemble([LoadedRun(config, load(config.dataset), MemoryRecord())])
    module = ensemble._build_module()
    ensemble._build_module = lambda: module
    ensemble.train()
    return module, ensemble.runs[0].record


def build_network():
    """Return a network whose first BatchNorm sees a batch as it is, and the second one what the first made of it."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4), nn.Tanh(), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    network[0].running_mean.fill_(7.0)
    return network


def run_batches(network, batches):
    def run():
        for batch in batches:
            network(batch)

    return run


def test_recalibrated_statistics_are_those_of_what_passes_through_the_layers():
    network, X = build_network(), torch.randn(10, 3, dtype=torch.float64) * 3 + 1
    batches = [X[:4], X[4:7], X[7:]]
    layers = find_batch_norms(network)
    before = {name: Z.clone() for name, Z in network.state_dict().items()}
    network.eval()
    with use_statistics("recalibrated", layers, run_batches(network, batches)):
        # Batch by batch in training mode, in which torch normalises by the statistics of the batch.
        twin = build_network()
        hidden = torch.cat([twin[:3](batch) for batch in batches])
        for layer, Z in ((network[0], X), (network[3], hidden)):
            torch.testing.assert_close(layer.running_mean, Z.mean(dim=0))
            torch.testing.assert_close(layer.running_var, Z.var(dim=0, correction=0))
            assert not layer.training
    after = network.state_dict()
    assert all(torch.equal(after[name], Z) for name, Z in before.items())
    assert not any(layer._forward_pre_hooks for layer in layers)


def test_processes_that_share_the_batches_have_the_statistics_of_one():
    X = torch.randn(9, 3, dtype=torch.float64)
    batches = [X[:4], X[4:6], X[6:]]
    sums = []

    def measure(own, add_processes):
        network = build_network()
        layers = find_batch_norms(network)
        with use_statistics("recalibrated", layers, run_batches(network.eval(), own), add_processes):
            return network(X)

    shares = [batches[0::2], batches[1::2], []]  # a process may have no batch
    for share in shares:
        measure(share, lambda Z: sums.append(Z) or Z)
    torch.testing.assert_close(measure(shares[2], lambda Z: sum(sums)), measure(batches, lambda Z: Z))


def test_frozen_and_unused_layers_keep_their_statistics():
    network = nn.ModuleDict(
        {"frozen": nn.BatchNorm1d(3).eval(), "unused": nn.BatchNorm1d(3), "used": nn.BatchNorm1d(3)}
    )
    network["stateless"] = nn.BatchNorm1d(3, track_running_stats=False)
    layers = find_batch_norms(network)
    assert layers == [network["unused"], network["used"]]
    X = torch.randn(5, 3) + 9
    with use_statistics("recalibrated", layers, lambda: network["used"](X)):
        assert network["unused"].running_mean.eq(0).all()
        torch.testing.assert_close(network["used"].running_mean, X.mean(dim=0))


@pytest.mark.parametrize(("samples", "size"), [(45, 8), (3, 2), (9, 2), (2, 8), (1, 4), (30, 30), (5, 1)])
def test_no_batch_has_a_single_sample(samples, size):
    batches = mix_into_batches(samples, size)
    assert torch.cat(batches).sort().values.equal(torch.arange(samples))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= max(size, 3)
    assert min(sizes) >= 2 or 1 in {samples, size}


@pytest.mark.parametrize("statistics", ["recalibrated", "batch"])
def test_with_one_batch_the_network_is_measured_as_it_is_trained(statistics):
    """Then both are those of the whole set, and the direct computation is one pass in training mode."""
    config = deep(
        "model=vgg11", f"model.batch_norm={statistics}", "compute.precision=64-true", "dynamics.batch_size=null",
        "model.features=16",
    )  # fmt: skip
    module, record = train(config)
    network, Y = module.network.train(), nn.functional.one_hot(module.labels, 10).double()
    loss = (network(module.X) - Y).square().sum() / (2 * len(Y))
    assert record.rows[-1]["loss/train"] == pytest.approx(float(loss.detach()), rel=1e-9)
    if statistics == "batch":  # the gradient is that of training, through the statistics
        decay = config.dynamics.weight_decay / 2 * sum(Z.square().sum() for Z in network.parameters())
        gradients = torch.autograd.grad(loss + decay, list(network.parameters()))
        norm = torch.cat([Z.flatten() for Z in gradients]).norm()
        assert record.rows[-1]["gradient_norm/parameters"] == pytest.approx(float(norm), rel=1e-9)


def test_the_statistics_of_measurements_leave_no_trace_in_the_training():
    states = {}
    for statistics in STATISTICS:
        _, record = train(deep("model=vgg11", f"model.batch_norm={statistics}"))
        states[statistics] = record.state
        assert record.status == ("completed", "")
    for state in states.values():
        assert all(torch.equal(Z, states["running"][name]) for name, Z in state.items())


def test_a_network_that_learns_is_not_reported_as_exploding():
    """Running statistics lag behind the first steps of ResNet-18 so far that its loss seems many times as large."""
    losses = {
        statistics: [row["loss/train"] for row in train(deep("model=resnet18", *SLOW, *given))[1].rows]
        for statistics, given in (
            ("default", []), ("batch", ["model.batch_norm=batch"]), ("running", ["model.batch_norm=running"]),
        )
    }  # fmt: skip
    for default, batch, running in zip(losses["default"], losses["batch"], losses["running"], strict=True):
        assert batch / 1.5 < default < 1.5 * batch  # the loss that is trained
        assert running > 4 * batch
    assert losses["default"][-1] < 0.6 * losses["default"][0]


def test_the_choice_is_a_key_of_networks_with_batch_norm():
    assert deep("model=resnet18").model.batch_norm == "recalibrated"
    assert compute_signature(deep("model=vgg11", "model.batch_norm=running")) == SIGNATURE_BEFORE
    assert len({compute_signature(deep("model=vgg11", f"model.batch_norm={name}")) for name in STATISTICS}) == 3
    message = refusal("model=vgg11", "model.batch_norm=recalibrate")
    assert message.startswith("model.batch_norm=recalibrate: must be one of recalibrated, running, batch")
    assert not hasattr(deep("model=mlp").model, "batch_norm")
    # Stored configurations from before the key mean what runs did then.
    assert add_later_keys({"model.name": "vgg11", "seed": 1})["model.batch_norm"] == "running"
    assert add_later_keys({"model.name": "vgg11", "model.batch_norm": "batch"})["model.batch_norm"] == "batch"
    assert add_later_keys({"model.name": "mlp"}) == {"model.name": "mlp"}


def test_its_pass_is_part_of_the_cost():
    def count(statistics):
        config = deep("model=vgg11", f"model.batch_norm={statistics}")
        size = LoadedRun(config, load(config.dataset), MemoryRecord()).size
        return count_work(size).measurement, 30 * size.pass_work

    (more, a_pass), (less, _) = count("recalibrated"), count("running")
    assert more - less == a_pass


def test_the_results_of_a_command_name_it():
    runs = pl.DataFrame({"model.batch_norm": ["recalibrated", None, "running"], "step": [0, 0, 0]})
    assert _name_batch_norm(runs) == (
        "measured with recalibrated and running statistics of BatchNorm (model.batch_norm)"
    )
    assert _name_batch_norm(runs.drop("model.batch_norm")) == ""
    assert _name_batch_norm(runs[1:2]) == ""
