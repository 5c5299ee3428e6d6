"""Deep networks through the same store, packs and metrics as networks of particles."""

import math

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from torch import nn

from nc_sweeps.config import compute_signature
from nc_sweeps.counters import Stream, permutations
from nc_sweeps.data import load
from nc_sweeps.errors import ConfigError
from nc_sweeps.metrics import collapse
from nc_sweeps.metrics.balancedness import balancedness
from nc_sweeps.metrics.statistics import class_statistics
from nc_sweeps.models.deep import build_deep_network, initialise
from nc_sweeps.pack import Pack
from nc_sweeps.report.digest import digest_sweep
from nc_sweeps.report.page import render
from nc_sweeps.report.runs import describe_run
from nc_sweeps.run_spec import RunSpec
from nc_sweeps.store.run_folder import RunFolder
from nc_sweeps.store.sweep_folder import load_sweep
from nc_sweeps.theory.certificate import certificate
from nc_sweeps.training.ensembles import DeepEnsemble, LoadedRun
from nc_sweeps.training.memory import predict_peak_bytes
from nc_sweeps.training.seconds import count_work
from nc_sweeps.training.sizes import Size
from tests.configs import config_of, refusal, tiny
from tests.doubles import MemoryRecord, SilentListener

#: 30 digits of 8×8 pixels, six steps.
FEW = (
    "dataset=digits",
    "dataset.train_per_class=3",
    "dataset.test_per_class=2",
    "dynamics.batch_size=12",
    "dynamics.horizon=2",
    "compute.threads=1",
    "metrics.points=3",
)
NETWORKS = ("mlp", "resnet18", "vgg11")


def deep(model, *overrides):
    return config_of(f"model={model}", *FEW, *overrides)


def load_run(config, record=None, **state):
    return LoadedRun(config, load(config.dataset), record or MemoryRecord(), **state)


def train(config, record=None, **state):
    ensemble = DeepEnsemble([load_run(config, record, **state)])
    ensemble.train()
    return ensemble.runs[0].record


def make_spec(sweep, config):
    return RunSpec(config, [], sweep / compute_signature(config))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Return the folder of a pack with all deep networks and one of particles, and the specifications of the former."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("deep")
    specs = [make_spec(folder, deep(model, "model.features=16")) for model in NETWORKS]
    Pack([*specs, make_spec(folder, tiny())]).train(SilentListener())
    return folder, {spec.config.model.name: spec for spec in specs}


@pytest.mark.parametrize("model", ["mlp", "resnet18"])
def test_alone_packed_or_resumed_a_run_is_the_same_bit_by_bit(model, sweep):
    packed = sweep[1][model]
    rows = RunFolder(packed.directory).read_metrics().drop("seconds")
    config = packed.config
    half = MemoryRecord(stop_at=4)
    with pytest.raises(MemoryRecord.StoppedError):
        train(deep(model, "model.features=16", "compute.checkpoint_seconds=0"), half)
    assert half.step == 4  # in the middle of an epoch
    resumed = train(config, step=half.step, state=half.state)
    assert resumed.status == ("completed", "")
    later = rows.filter(pl.col("step") > half.step)
    assert later.height >= 1
    assert_frame_equal(pl.DataFrame(resumed.rows).drop("seconds"), later, check_exact=True)
    if model == "mlp":
        assert_frame_equal(train(config).frame(), rows, check_exact=True)


def test_every_network_learns_and_the_certificate_holds(sweep):
    folder, specs = sweep
    for one in specs.values():
        rows = RunFolder(one.directory).read_metrics()
        assert RunFolder(one.directory).read_summary().status == "completed"
        assert rows["loss/train"][-1] < rows["loss/train"][0]
        assert (rows["nc1/train"] <= rows["certificate/nc1_bound"] * (1 + 1e-9)).all()
        assert (rows["certificate/nc1_bound"] <= rows["certificate/closed_form"] * (1 + 1e-9)).all()
        known = rows.select("nc1/train", "nc4/test", "balancedness", "gradient_norm/parameters", "error/test")
        assert known.drop_nans().height == rows.height
        assert not any(name.startswith(("oracle/", "paper/", "imbalance/")) for name in rows.columns)
        assert "gradient_norm/parameters" in rows.columns
    table = load_sweep(folder)
    assert set(table["model.name"]) == {"mean_field", *NETWORKS}


def test_reports_show_deep_runs_beside_others(sweep):
    folder, specs = sweep
    condensed = digest_sweep(folder)
    assert "model.name" in [axis.key for axis in condensed.axes]
    assert {"gradient_norm/parameters", "nc1/train"} <= {quantity.name for quantity in condensed.quantities}
    assert "resnet18" in render(condensed)
    describe_run(specs["vgg11"].directory)


@pytest.mark.parametrize("model", ["mlp", "vgg11"])
def test_metrics_are_those_of_the_whole_data_set_at_once(model):
    """The direct computation has all features and scores in one piece, in float64, and gradients by autograd."""
    config = deep(
        model, "model.features=16", "compute.precision=64-true", "dataset.train_per_class=6", "dynamics.horizon=1",
        "metrics.points=2", "dataset.imbalance=2", *(["model.batch_norm=running"] if model == "vgg11" else []),
    )  # fmt: skip
    ensemble = DeepEnsemble([load_run(config)])
    module = ensemble._build_module()
    ensemble._build_module = lambda: module
    ensemble.train()
    found = ensemble.runs[0].record.rows[-1]

    network, decay = module.network.eval(), config.dynamics.weight_decay
    Y, Y_test = (nn.functional.one_hot(labels, 10).double() for labels in (module.labels, module.labels_test))
    H, H_test = network.features(module.X), network.features(module.X_test)
    loss = (network.head(H) - Y).square().sum() / (2 * len(Y))
    regularised = loss + decay / 2 * sum(Z.square().sum() for Z in network.parameters())
    gradients = torch.autograd.grad(regularised, list(network.parameters()))
    H, H_test, W, V = H.detach(), H_test.detach(), network.head.weight.detach().mT, network.linear.weight.detach()
    statistics = class_statistics(H, Y)
    bound = certificate(H, W, Y, torch.ones((), dtype=torch.float64))
    expected = {
        "loss/train": loss.detach(),
        "loss/test": (H_test @ W - Y_test).square().sum() / (2 * len(Y_test)),
        "loss/regularised": regularised.detach(),
        "nc1/train": collapse.nc1(statistics),
        "nc1/pseudo_inverse/test": collapse.nc1_pseudo_inverse(class_statistics(H_test, Y_test)),
        "nc2/frame_angle/train": collapse.nc2_frame_angle(statistics),
        "nc3/duality/train": collapse.nc3_duality(statistics, W),
        "nc4/train": collapse.nc4(H, H @ W, statistics),
        "nc4/test": collapse.nc4(H_test, H_test @ W, statistics),
        "certificate/nc1_bound": bound.nc1_bound,
        "certificate/range_term": bound.range_term,
        "certificate/tightness": collapse.nc1(statistics) / bound.nc1_bound,
        "head/sigma_min": torch.linalg.svdvals(W)[-1],
        "balancedness": balancedness(V @ V.mT, W),
        "gradient_norm/parameters": math.sqrt(sum(float(g.square().sum()) for g in gradients)),
        "gradient_norm/w": gradients[-1].norm(),
        "error/train": 1 - np.mean([((H @ W).argmax(1) == k)[module.labels == k].double().mean() for k in range(10)]),
    }
    for name, value in expected.items():
        # Sums of some hundred terms in another order.
        assert found[name] == pytest.approx(float(value), rel=1e-9, abs=1e-12), name


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_steps_are_those_of_the_definition(loss):
    """θ and v by the formula, gradients by autograd, mini-batches by the counters, in float64."""
    config = deep(
        "mlp", "model.hidden=[7]", "compute.precision=64-true", f"dynamics.loss={loss}", "dynamics.momentum=0.8",
        "dynamics.weight_decay=0.01", "dynamics.schedule=[{after: 0.5, step_size: 0.003}]", "dynamics.step_size=0.01",
    )  # fmt: skip
    ensemble = DeepEnsemble([load_run(config)])
    module = ensemble._build_module()
    network = initialise(build_deep_network("mlp", (1, 8, 8), 10, hidden=[7]), config.seed, torch.float64)
    velocities = [torch.zeros_like(Z) for Z in network.parameters()]
    order = torch.cat([permutations(torch.tensor([config.seed]), Stream.BATCHES, epoch, 30)[0] for epoch in range(2)])
    batches = [order[start : min(start + 12, end)] for end in (30, 60) for start in range(end - 30, end, 12)]
    for step, chosen in enumerate(batches):
        scores, labels = network(module.X[chosen]), module.labels[chosen]
        if loss == "mse":
            value = (scores - nn.functional.one_hot(labels, 10)).square().sum() / (2 * len(labels))
        else:
            value = -scores.log_softmax(1)[range(len(labels)), labels].mean()
        gradients = torch.autograd.grad(value, list(network.parameters()))
        step_size = 0.01 if step < 3 else 0.003
        with torch.no_grad():
            for Z, v, gradient in zip(network.parameters(), velocities, gradients, strict=True):
                v.mul_(0.8).add_(gradient + 0.01 * Z)
                Z.sub_(step_size * v)
    ensemble.train()
    state = ensemble.runs[0].record.state
    for name, Z in network.named_parameters():
        torch.testing.assert_close(state[f"network.{name}"], Z.detach(), rtol=1e-10, atol=1e-12)
    times = ensemble.runs[0].record.frame()["time"]
    assert times[-1] == pytest.approx(3 * 0.01 + 3 * 0.003, rel=1e-12)


def test_cross_entropy_has_no_certificate():
    rows = train(deep("mlp", "dynamics.loss=cross_entropy")).frame()
    assert rows["loss/train"][0] > rows["loss/train"][-1]
    assert not any(name.startswith("certificate/") or name == "balancedness" for name in rows.columns)
    assert rows["loss/regularised"][0] > rows["loss/train"][0]


def test_a_deep_run_that_diverges_says_when():
    record = train(deep("mlp", "dynamics.step_size=1e9"))
    assert record.status[0] == "diverged"
    assert "between steps" in record.status[1]


def test_initial_weights_have_the_variance_that_keeps_signals_alive():
    network, other = (
        initialise(build_deep_network("mlp", (1, 8, 8), 10, 50, hidden=[400, 300]), seed, torch.float32)
        for seed in (3, 4)
    )
    wide = network.backbone[3].weight
    assert float(wide.var()) == pytest.approx(2 / 400, rel=0.02)  # 120,000 numbers: 0.4 % standard error
    assert float(network.linear.weight.var()) == pytest.approx(0.05**2, rel=0.05)  # 15,000: 1.2 %
    assert not torch.equal(wide, other.backbone[3].weight)


@pytest.mark.parametrize("model", NETWORKS)
@pytest.mark.parametrize(("shape", "classes"), [((1, 28, 28), 10), ((3, 32, 32), 20), ((3, 5, 9), 3)])
def test_networks_take_images_of_any_size_and_channels(model, shape, classes):
    network = build_deep_network(model, shape, classes, hidden=[512])
    scores = network(torch.empty(2, math.prod(shape), device="meta"))
    assert scores.shape == (2, classes)
    assert network.features(torch.empty(2, math.prod(shape), device="meta")).shape == (2, 512)


def test_adapted_networks_have_torchvisions_layers():
    from torchvision.models import resnet18, vgg11_bn

    def convolutions(network):
        return [tuple(layer.weight.shape) for layer in network.modules() if isinstance(layer, nn.Conv2d)]

    for model, original in (("resnet18", resnet18), ("vgg11", vgg11_bn)):
        with torch.device("meta"):
            theirs = convolutions(original())
        assert convolutions(build_deep_network(model, (3, 32, 32), 10))[1:] == theirs[1:]


def test_cost_is_that_of_the_layers():
    config = deep("mlp", "model.hidden=[100,50]", "model.features=20")
    one = load_run(config)
    size = one.size
    weights = 64 * 100 + 100 * 50 + 50 * 20 + 20 * 10
    assert size.pass_work == weights
    assert count_work(size).step == 3 * 12 * weights
    assert size.parameters == weights + 150
    # The backward pass needs the input, two activations and the features.
    assert size.activations == 4 * (64 + 100 + 50 + 20)
    resnet = Size.of(deep("resnet18"), one.data, one.schedule, 0)
    assert resnet.parameters == pytest.approx(11.17e6, rel=0.01)
    assert predict_peak_bytes(resnet, 1, 1) > 8 * 4 * resnet.parameters
    assert 0 < count_work(resnet).measurement < math.inf


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model=resnet18", "dynamics=sgd"],
            "dynamics.name=flow: does not move model=resnet18; take dynamics=momentum",
        ),
        (["dynamics=momentum"], "dynamics.name=momentum: does not move model=mean_field; take a mean-field flow"),
        (["model=vgg11", "width.particles=3"], "width.particles has no effect on model=vgg11"),
        (["model=vgg11", "width=wide"], "width has no effect on model=vgg11"),
        (["model=mlp", "compute.devices=2"], "compute.devices=2: only particles are spread over processes"),
        (
            ["model=mlp", "dynamics.loss=mes"],
            "dynamics.loss=mes: must be one of mse, cross_entropy (did you mean mse?)",
        ),
        (["model=mlp", "dynamics.momentum=1"], "dynamics.momentum=1.0: must be at least 0 and below 1"),
        (["model=mlp", "dynamics.weight_decay=-1"], "dynamics.weight_decay=-1.0: must be at least 0"),
        (["model=mlp", "model.hidden=[]"], "model.hidden=[]: must name at least one width"),
        (["model=mlp", "model.features=2"], "model.features=2: must be at least the number of classes, 3"),
        (["model.name=resnet"], "model.name=resnet: must be one of mean_field, mlp, resnet18, vgg11"),
        (["model=mlp", "metrics.include=[oracle/*]"], "must name at least one metric that the network has"),
    ],
)
def test_what_does_not_fit_a_deep_network_is_one_line(overrides, message):
    assert message in refusal(*overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=resnet18"], "model.name=resnet18: is for images, and samples have 8 numbers; take mlp"),
        (["model=resnet18", *FEW, "dynamics.batch_size=29"], "leaves a batch of one of 30 samples"),
    ],
)
def test_what_does_not_fit_the_data_is_found_before_anything_starts(tmp_path, overrides, message):
    config = config_of(*overrides)
    with pytest.raises(ConfigError, match=message):
        Pack([make_spec(tmp_path, config)]).train(SilentListener())
    assert not list(tmp_path.iterdir()) or not (tmp_path / compute_signature(config)).exists()


def test_what_a_deep_network_does_not_read_does_not_decide_its_signature():
    base = deep("mlp")
    assert compute_signature(base) != compute_signature(deep("mlp", "dynamics.momentum=0.5"))
    assert compute_signature(base) != compute_signature(deep("resnet18"))
    base.width.particles += 1
    assert compute_signature(base) == compute_signature(deep("mlp"))
