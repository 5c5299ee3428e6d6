"""The numbers of a run do not depend on its pack, on where it is stopped or on the order of its particles."""

import math
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from nc_sweeps.config import compute_ensemble_key, compute_signature
from nc_sweeps.data import load
from nc_sweeps.errors import ConfigError
from nc_sweeps.pack import Pack
from nc_sweeps.run_spec import RunSpec
from nc_sweeps.store.run_folder import RunFolder
from nc_sweeps.training import ensembles
from nc_sweeps.training.ensembles import FlowEnsemble, LoadedRun
from nc_sweeps.training.measurements import MEASUREMENTS, measure
from nc_sweeps.training.memory import predict_peak_bytes
from tests.configs import tiny
from tests.doubles import MemoryRecord, SilentListener
from tests.training.recorded import train

DYNAMICS = {
    "gradient_flow": ["dynamics=gradient_flow"],
    "noisy": ["dynamics=noisy_gradient_flow", "dynamics.beta=40"],
    "sgd": ["dynamics=sgd", "dynamics.batch_size=7", "dynamics.horizon_unit=steps"],
    "two_stage": ["dynamics=two_stage", "dynamics.stage_one=11", "dynamics.beta=40", "dynamics.lambda_w=0.01"],
    "noisy_sgd": ["dynamics=noisy_sgd", "dynamics.batch_size=7", "dynamics.beta=40", "dynamics.horizon_unit=steps"],
}


def tiny_dynamics(name, *overrides):
    return tiny(*DYNAMICS[name], "dynamics.horizon=30", *overrides)


@pytest.mark.parametrize("name", DYNAMICS)
def test_packing_changes_nothing(name):
    points = [
        ["seed=1", "separation.margin=0.2"],
        ["seed=2", "separation.margin=-0.1", "dynamics.step_size=0.05", "model.gamma=2"],
        ["seed=1", "dynamics.beta=7", "dynamics.lambda_w=0.3", "dynamics.lambda_rho=0.2"],
    ]
    configs = [tiny_dynamics(name, "compute.precision=64-true", *point) for point in points]
    assert len({compute_ensemble_key(config) for config in configs}) == 1
    packed = train(*configs)
    for config, record in zip(configs, packed, strict=True):
        (alone,) = train(config)
        # To rounding: 30 steps of float64; a batched product may add in another order.
        assert_frame_equal(record.frame(), alone.frame(), rel_tol=1e-10, abs_tol=1e-13)


def test_packing_with_other_weight_decays_does_not_change_the_imbalance_law():
    """λ_ρ ≠ λ_W makes the law follow W step by step, also for its companions; 600 steps in stretches of 6 and more."""
    names = "metrics.include=[imbalance/*]", "optimized_metric=imbalance/stationary_residual"
    noisy = ("compute.precision=64-true", "dynamics.horizon=600", "dynamics.beta=40", *names)
    equal, unequal = tiny_dynamics("noisy", *noisy), tiny_dynamics("noisy", *noisy, "dynamics.lambda_w=0.3")
    packed, _ = train(equal, unequal)
    (alone,) = train(equal)
    assert_frame_equal(packed.frame(), alone.frame(), rel_tol=1e-9, abs_tol=1e-13)


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
@pytest.mark.parametrize("name", DYNAMICS)
def test_a_resumed_run_is_bit_identical(name, precision):
    config = tiny_dynamics(name, f"compute.precision={precision}", "compute.checkpoint_seconds=0")
    data = load(config.dataset)
    (whole,) = train(config)
    stopped = MemoryRecord(stop_at=13)
    with pytest.raises(MemoryRecord.StoppedError):
        FlowEnsemble([LoadedRun(config, data, stopped)]).train()
    assert 13 <= stopped.step < 30
    resumed = MemoryRecord()
    FlowEnsemble([LoadedRun(config, data, resumed, stopped.step, stopped.state)]).train()
    rows = [row for row in stopped.rows if row["step"] <= stopped.step] + resumed.rows
    assert_frame_equal(pl.DataFrame(rows).drop("seconds"), whole.frame(), check_exact=True)
    for layer, value in whole.state.items():
        assert torch.equal(value, resumed.state[layer])


def test_a_run_stopped_after_its_last_step_is_closed():
    config = tiny()
    (whole,) = train(config)
    record = MemoryRecord()
    FlowEnsemble([LoadedRun(config, load(config.dataset), record, 30, whole.state)]).train()
    assert record.status == ("completed", "")
    assert record.rows == []


def test_order_of_particles_and_rotation_of_features_change_no_metric():
    noise = ("dynamics=two_stage", "dynamics.beta=50", "dynamics.stage_one=10", "model.truncation=3")
    config = tiny("compute.precision=64-true", "dynamics.lambda_w=0.02", *noise)
    run = LoadedRun(config, load(config.dataset), MemoryRecord())
    module = FlowEnsemble([run])._build_module()
    before = measure(module.take_snapshot(), tuple(MEASUREMENTS))
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))
    order = torch.randperm(12)
    network = module.networks
    network.U.copy_(network.U[:, order])
    network.A.copy_(network.A[:, order] @ rotation)
    network.W.copy_(rotation.T @ network.W)
    after = measure(module.take_snapshot(), tuple(MEASUREMENTS))
    for name in MEASUREMENTS:
        assert after[name][0] == pytest.approx(before[name][0], rel=1e-10, nan_ok=True), name


@pytest.mark.parametrize("dataset", ["separable", "gaussian", "digits", "mnist"])
@pytest.mark.parametrize("activation", ["tanh", "erf", "sigmoid", "relu", "softplus"])
def test_every_metric_is_measured_on_drawn_and_on_read_data(dataset, activation, request):
    extra = []
    if dataset in ("separable", "gaussian"):
        extra = ["dataset.dimension=4"]
    if dataset == "mnist":
        extra = [f"data_dir={request.getfixturevalue('mnist_dir')}"]
    from tests.configs import config_of

    config = config_of(
        f"dataset={dataset}", *extra, f"model.activation={activation}", "width.particles=20", "dynamics.horizon=6",
        "dataset.train_per_class=10", "dataset.test_per_class=10", "metrics.points=4", "dynamics.step_size=0.05",
    )  # fmt: skip
    (record,) = train(config)
    assert record.status == ("completed", "")
    frame = record.frame()
    assert frame["step"].to_list() == [0, 1, 2, 6]
    measured = [name for name in MEASUREMENTS if not name.startswith("oracle/")]
    assert set(frame.columns) == {"step", "time", "epoch", *measured}
    # Without noise; and what the activations outside Assumption 1 cannot have.
    undefined = {
        "paper/lemma_4_3_exponent",
        "paper/beta_loss",
        "stationarity/kgd_squared",
        "free_energy/divergence_bound",
    }
    if activation in {"relu", "softplus"}:
        undefined |= {"paper/theorem_4_2", "paper/corollary_4_4", "certificate/deviation_bound"}
    for name in measured:
        assert (frame[name].is_nan() if name in undefined else frame[name].is_finite()).all(), name
    assert (frame["nc1/train"] <= frame["certificate/nc1_bound"] * (1 + 1e-9)).all()
    assert (frame["nc1/train"] <= frame["certificate/closed_form"] * (1 + 1e-9)).all()
    assert (frame["nc1/train"] <= frame["certificate/angle"] * (1 + 1e-9)).all()
    assert frame["loss/regularised"].is_sorted(descending=True)


def test_sizes_of_classes_and_wrong_labels_enter_the_metrics():
    config = tiny("dataset.train_per_class=12", "dataset.imbalance=4", "dataset.label_noise=0.2", "model.gamma=2",
                  "compute.precision=64-true")  # fmt: skip
    (record,) = train(config)
    row, data = record.rows[-1], load(config.dataset)
    U, A, W = (record.state[name].numpy() for name in ("U", "A", "W"))
    H, labels = {}, {}
    for name, split in {"train": data.train, "test": data.test}.items():
        H[name], labels[name] = np.tanh(split.x @ U.T) @ A / len(U), split.labels
    counts = np.bincount(labels["train"])
    assert counts.sum() == 12 + 6 + 3
    assert len(set(counts)) > 1
    means = np.stack([H["train"][labels["train"] == k].mean(axis=0) for k in range(3)])
    within = np.square(H["train"] - means[labels["train"]]).sum()
    F = {name: 2 * H[name] @ W for name in H}
    for name in H:
        wrong = F[name].argmax(axis=1) != labels[name]
        error = np.mean([wrong[labels[name] == k].mean() for k in range(3)])
        assert row[f"error/{name}"] == pytest.approx(error, abs=1e-12)
        nearest = np.square(H[name][:, None] - means).sum(axis=2).argmin(axis=1)
        assert row[f"nc4/{name}"] == pytest.approx(np.mean(nearest != F[name].argmax(axis=1)), abs=1e-12)
    r = F["train"] - np.eye(3)[labels["train"]]
    assert row["loss/train"] == pytest.approx(np.square(r).sum() / (2 * len(r)), rel=1e-9)
    assert row["nc1/train"] == pytest.approx(within / np.square(H["train"] - H["train"].mean(axis=0)).sum(), rel=1e-9)
    assert row["nc1/train"] <= row["certificate/nc1_bound"] * (1 + 1e-9)
    assert row["nc1/train"] <= row["certificate/closed_form"] * (1 + 1e-9)
    smallest = (np.sqrt(counts.min()) - np.linalg.norm(r, 2)) / (2 * np.linalg.norm(H["train"], 2))
    assert row["certificate/sigma_min_bound"] == pytest.approx(max(smallest, 0), rel=1e-9)
    assert math.isnan(row["paper/corollary_4_4"])  # stated for balanced classes


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
def test_precision_is_what_was_asked_for(precision):
    config = tiny(f"compute.precision={precision}")
    (record,) = train(config)
    expected = torch.float64 if precision == "64-true" else torch.float32
    assert {record.state[layer].dtype for layer in ("U", "A", "W")} == {expected}
    (reference,) = train(tiny("compute.precision=64-true"))
    # Relative rounding of the matrix products: 24, 53 and 8 bits, over 30 contracting steps.
    tolerance = {"32-true": 1e-4, "64-true": 0.0, "bf16-mixed": 0.1}[precision]
    assert record.rows[-1]["loss/train"] == pytest.approx(reference.rows[-1]["loss/train"], rel=tolerance)


def test_a_diverged_run_is_named_and_the_others_go_on():
    calm = tiny("dynamics.step_size=0.1", "model.activation=relu")
    wild = tiny("dynamics.step_size=1e6", "model.activation=relu")
    (alone,) = train(calm)
    packed = train(wild, calm)
    status, reason = packed[0].status
    assert status == "diverged"
    assert "between steps" in reason
    assert "dynamics.step_size" in reason
    assert len(packed[0].rows) < len(packed[1].rows)
    assert packed[1].status == ("completed", "")
    assert_frame_equal(packed[1].frame(), alone.frame(), rel_tol=1e-5)


def test_an_ensemble_of_diverged_runs_stops():
    record, work, listener = MemoryRecord(), [], SilentListener()
    listener.advance = lambda done, _: work.append(done)
    config = tiny("dynamics.step_size=1e6", "model.activation=relu", "dynamics.horizon=100000")
    ensemble = FlowEnsemble([LoadedRun(config, load(config.dataset), record)])
    ensemble.train(listener=listener)
    assert record.status[0] == "diverged"
    assert sum(work) < ensemble.work / 10


def test_only_what_is_asked_for_is_measured():
    config = tiny("metrics.include=[nc1/train]", "optimized_metric=nc1/train")
    (record,) = train(config)
    assert set(record.rows[0]) == {"step", "time", "epoch", "seconds", "nc1/train"}


def test_gradient_norms_are_those_of_the_regularised_objective():
    """Autograd differentiates L_λ through its definition; the particles' gradients are in the mean-field scaling."""
    config = tiny("compute.precision=64-true", "dynamics.lambda_rho=0.05", "dynamics.lambda_w=0.02", "model.gamma=1.7")
    module = FlowEnsemble([LoadedRun(config, load(config.dataset), MemoryRecord())])._build_module()
    snapshot = module.take_snapshot()
    U, A, W = (Z.detach().clone().requires_grad_() for Z in (module.networks.U, module.networks.A, module.networks.W))
    N = U.shape[1]
    F = 1.7 * torch.tanh(module.X @ U.mT) @ A / N @ W
    L = ((F - module.Y) ** 2).sum() / (2 * F.shape[1])
    objective = L + 0.02 / 2 * (W**2).sum() + 0.05 / 2 * ((A**2).sum() + (U**2).sum()) / N
    g_U, g_A, g_W = torch.autograd.grad(objective, (U, A, W))
    expected = {
        "loss/train": float(L.detach()),
        "loss/regularised": float(objective.detach()),
        "gradient_norm/a": float((N * g_A).square().sum(-1).mean().sqrt()),
        "gradient_norm/u": float((N * g_U).square().sum(-1).mean().sqrt()),
        "gradient_norm/w": float(g_W.norm()),
    }
    found = measure(snapshot, tuple(expected))
    for name, value in expected.items():
        assert found[name][0] == pytest.approx(value, rel=1e-12), name


def test_a_pack_mixes_shapes_skips_what_is_done_and_goes_on_with_the_rest(tmp_path: Path, capsys):
    def make_spec(*overrides):
        config = tiny("compute.checkpoint_seconds=0", *overrides)
        return RunSpec(config, list(overrides), tmp_path / compute_signature(config))

    specs = [make_spec("seed=0"), make_spec("width.particles=5"), make_spec("seed=1"), make_spec("seed=0")]
    values = Pack(specs, max_runs_per_ensemble=1).train(SilentListener())
    assert values[0] == values[3]
    assert len({*values}) == 3
    before = {path: path.read_bytes() for path in tmp_path.glob("*/metrics.parquet")}
    assert len(before) == 3
    more = Pack([*specs, make_spec("seed=2")]).train(SilentListener())
    assert more[:4] == values
    assert more[4:] == Pack([make_spec("seed=2")]).train(SilentListener())
    assert "3 of 4 runs done already" in capsys.readouterr().err
    assert all(path.read_bytes() == content for path, content in before.items())
    assert RunFolder(specs[0].directory).read_metrics()["nc1/test"][-1] == values[0]


def test_ensembles_are_cut_to_the_memory_they_may_take(monkeypatch):
    runs = [
        LoadedRun(config, load(config.dataset), MemoryRecord())
        for config in (tiny(f"seed={seed}") for seed in range(10))
    ]
    taken = [predict_peak_bytes(runs[0].size, count, 1) for count in range(1, 11)]

    def sizes(budget, max_runs=None):
        monkeypatch.setattr(ensembles, "find_budget_bytes", lambda _: budget)
        return [len(ensemble.runs) for ensemble in ensembles.cut_into_ensembles(runs, max_runs)]

    assert sizes(taken[9]) == [10]
    assert sizes(taken[9], max_runs=4) == [4, 4, 2]
    assert sizes(taken[2]) == [3, 3, 3, 1]
    assert sizes(0) == [1] * 10  # what is free is a guess


def test_a_run_that_does_not_fit_into_the_memory_is_refused():
    config = tiny("compute.memory=0.001")
    with pytest.raises(ConfigError, match=r"compute.memory=0.001: a run of 12 particles needs .* GiB"):
        ensembles.cut_into_ensembles([LoadedRun(config, load(config.dataset), MemoryRecord())], None)


def test_runs_with_the_same_data_hold_it_once():
    configs = [tiny(f"seed={seed}", "dataset.seed=3") for seed in range(3)]
    data = load(configs[0].dataset)
    shared = FlowEnsemble([LoadedRun(config, data, MemoryRecord()) for config in configs])
    assert shared._build_module().X.stride(0) == 0
    own = FlowEnsemble([LoadedRun(config, load(config.dataset), MemoryRecord()) for config in configs])
    shared.train()
    own.train()
    for one, other in zip(shared.runs, own.runs, strict=True):
        assert_frame_equal(one.record.frame(), other.record.frame(), check_exact=True)


def test_rows_are_written_as_they_are_made_where_that_is_cheap():
    """Writing that takes longer than training is put off; the end, a checkpoint and a divergence write what is left."""

    class Slow(MemoryRecord):
        written = 0

        def flush(self):
            self.written += 1
            time.sleep(0.2)

    config = tiny()
    quick, slow = MemoryRecord(), Slow()
    quick.flush = lambda: setattr(quick, "written", getattr(quick, "written", 0) + 1)
    for record in (quick, slow):
        FlowEnsemble([LoadedRun(config, load(config.dataset), record)]).train()
    assert len(quick.rows) == len(slow.rows) == quick.written
    assert slow.written == 1  # the first row; the next would have come four seconds later
