"""Neural collapse over batches and processes has the values of one batch with all samples."""

import pickle
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics import MetricCollection

from nc_sweeps.metrics import NearestClassCentre, NeuralCollapse, collapse
from nc_sweeps.metrics.statistics import class_statistics
from tests.metrics.samples import MEASURES, NC3, compute_measures, targets

Q, P = 4, 6


def data(seed=0, n=60, offset=0.0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.concatenate([np.arange(Q), rng.integers(Q, size=n - Q)]))
    H = rng.standard_normal((Q, P))[labels] + 0.3 * rng.standard_normal((n, P)) + offset
    return torch.tensor(H), torch.tensor(labels), torch.tensor(rng.standard_normal((P, Q)))


def one_batch(H, labels, W):
    return compute_measures(class_statistics(H, targets(labels, Q)), W)


def assert_values(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # 60 samples of size 1 in well separated classes: about 100 roundings, amplified by the condition of the means.
        torch.testing.assert_close(found[name], value, rtol=1e-11, atol=1e-11, msg=name)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32), st.integers(1, 60))
def test_batches_in_any_order_are_one(seed, batches):
    H, labels, W = data(seed)
    metric = NeuralCollapse(Q, P, head=lambda: W)
    order = np.random.default_rng(seed).permutation(60)
    for batch in np.array_split(order, batches):
        metric.update(H[batch], labels[batch])
    metric.update(H[:0], labels[:0])
    assert_values(metric.compute(), one_batch(H, labels, W))


def test_every_measure_is_there():
    metric = NeuralCollapse(Q, P)
    H, labels, W = data()
    metric.update(H, labels)
    assert set(metric.compute()) == set(MEASURES) - set(NC3)
    metric.head = lambda: W
    metric.reset()
    metric.update(H, labels)
    assert set(metric.compute()) == set(MEASURES)


def test_the_head_is_read_when_values_are_computed():
    H, labels, _ = data()
    layer = torch.nn.Linear(P, Q, bias=False)
    metric = NeuralCollapse(Q, P, head=lambda: layer.weight.mT)
    metric.update(H, labels)
    assert float(metric.compute()["nc3_duality"]) > 0.1
    assert not metric.compute()["nc3_duality"].requires_grad
    with torch.no_grad():
        layer.weight.copy_(metric.statistics.means - metric.statistics.means.mean(dim=0))
    metric.update(H, labels)  # or torchmetrics would return its cached values
    assert float(metric.compute()["nc3_duality"]) < 1e-6
    metric.head = lambda: layer.weight
    metric.update(H, labels)
    with pytest.raises(ValueError, match=r"head: expected W of shape \(6, 4\), not \(4, 6\)"):
        metric.compute()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("integer", [torch.int64, torch.int32, torch.uint8])
def test_types_of_input(kind, integer):
    H, labels, W = data()
    H = H.to(kind)
    metric = NeuralCollapse(Q, P, head=lambda: W.to(kind))
    metric.update(H[:20], labels[:20].to(integer))
    metric.update(H[20:], labels[20:].to(integer))
    assert_values(metric.compute(), one_batch(H.double(), labels, W.to(kind)))


def test_offsets_cost_no_digits_in_single_precision():
    H, labels, W = data(n=1000, offset=1e4)
    H = H.float()
    metric = NeuralCollapse(Q, P, head=lambda: W)
    for i in range(0, 1000, 100):
        metric.update(H[i : i + 100], labels[i : i + 100])
    found, expected = metric.compute(), one_batch(H.double() - 1e4, labels, W)  # the difference is exact
    for name in set(MEASURES) - {name for name in MEASURES if "frame" in name}:
        # Means at 1e4 are stored to 1e-12, and their distances are about 1.
        assert float(found[name]) == pytest.approx(float(expected[name]), rel=1e-10), name


def test_forward_gives_the_value_of_the_batch_and_accumulates():
    H, labels, W = data()
    metric = NeuralCollapse(Q, P, head=lambda: W)
    for batch in (slice(0, 25), slice(25, 40), slice(40, 60)):
        leaf = H[batch].clone().requires_grad_()
        found = metric(leaf, labels[batch])
        assert_values({name: value.detach() for name, value in found.items()}, one_batch(leaf, labels[batch], W))
        (gradient,) = torch.autograd.grad(found["nc1"], leaf)
        (expected,) = torch.autograd.grad(one_batch(leaf, labels[batch], W)["nc1"], leaf)
        torch.testing.assert_close(gradient, expected)
    assert not metric.packed.requires_grad
    assert_values(metric.compute(), one_batch(H, labels, W))


def test_merge_state_and_reset():
    H, labels, W = data()
    first, second = NeuralCollapse(Q, P, head=lambda: W), NeuralCollapse(Q, P)
    first.update(H[:13], labels[:13])
    second.update(H[13:], labels[13:])
    first.merge_state(second)
    assert_values(first.compute(), one_batch(H, labels, W))
    first.reset()
    first.update(H[:30], labels[:30])
    assert_values(first.compute(), one_batch(H[:30], labels[:30], W))


@pytest.mark.parametrize(
    "change",
    [
        lambda metric: metric.half(),
        lambda metric: metric.to(torch.float16),
        lambda metric: metric.set_dtype(torch.float16),
        lambda metric: torch.nn.ModuleList([metric]).bfloat16()[0],
        lambda metric: torch.nn.ModuleList([metric]).to(torch.float16)[0],
    ],
)
def test_precision_stays(change):
    H, labels, W = data()
    metric = NeuralCollapse(Q, P, head=lambda: W)
    metric.update(H[:30], labels[:30])
    agreement = NearestClassCentre(metric.statistics)
    metric, centres = change(metric), agreement.centres.clone()
    assert change(agreement).centres.equal(centres)
    assert metric.packed.dtype == torch.float64
    metric.update(H[30:], labels[30:])
    assert_values(metric.compute(), one_batch(H, labels, W))
    metric.reset()
    assert metric.packed.dtype == torch.float64


def test_the_device_follows():
    metric = NeuralCollapse(Q, P)
    agreement = NearestClassCentre(metric.statistics)
    module = torch.nn.ModuleList([metric, agreement]).to("meta")
    states = [metric.packed, agreement.centres, agreement.samples, agreement.disagreements]
    assert {state.device.type for state in states} == {metric.device.type} == {"meta"}
    metric.reset()
    assert metric.packed.device.type == "meta"
    assert len(module) == 2


def test_pickled_half_way():
    H, labels, W = data()
    metric = NeuralCollapse(Q, P, head=partial(torch.Tensor.double, W))
    metric.update(H[:30], labels[:30])
    metric = pickle.loads(pickle.dumps(metric))
    metric(H[30:], labels[30:])
    assert_values(metric.compute(), one_batch(H, labels, W))
    agreement = pickle.loads(pickle.dumps(NearestClassCentre(metric.statistics)))
    agreement.update(H, H @ W)
    assert float(agreement.compute()) == float(collapse.nc4(H, H @ W, metric.statistics))


def test_nc4_in_batches():
    H, labels, W = data()
    labels = torch.where(labels == 2, 1, labels)  # a class without samples is never nearest
    metric = NeuralCollapse(Q, P)
    metric.update(H, labels)
    agreement = NearestClassCentre(metric.statistics)
    expected = collapse.nc4(H, H @ W, metric.statistics)
    assert 0 < float(expected) < 1
    values = [agreement(H[i : i + 7], (H @ W)[i : i + 7]) for i in range(0, 60, 7)]
    assert float(values[0]) == float(collapse.nc4(H[:7], H[:7] @ W, metric.statistics))
    assert float(agreement.compute()) == pytest.approx(float(expected), rel=1e-15)
    agreement.reset()
    agreement.update(H[:7], (H @ W)[:7])
    assert float(agreement.compute()) == float(values[0])


def test_in_a_collection():
    H, labels, W = data()
    F = H @ W
    train = NeuralCollapse(Q, P)
    train.update(H, labels)
    # Both have the same value for the first batch, a sample at class 0, but torchmetrics must not merge them.
    moved = train.statistics.means.roll(1, dims=0)
    moved[0], moved[1] = train.statistics.means[0], train.statistics.means[3]
    far = class_statistics(moved, torch.eye(Q))
    collection = MetricCollection(
        {"collapse": NeuralCollapse(Q, P), "near": NearestClassCentre(train.statistics), "far": NearestClassCentre(far)}
    )
    centre = train.statistics.means[:1]
    collection.update(H=centre, labels=torch.tensor([0]), F=torch.eye(Q)[:1])
    assert float(collection["near"].compute()) == float(collection["far"].compute()) == 0
    collection.update(H=H, labels=labels, F=F)
    found = collection.compute()
    H, labels, F = torch.cat([centre, H]), torch.cat([torch.tensor([0]), labels]), torch.cat([torch.eye(Q)[:1], F])
    assert float(found.pop("near")) == pytest.approx(float(collapse.nc4(H, F, train.statistics)), rel=1e-15)
    assert float(found.pop("far")) == pytest.approx(float(collapse.nc4(H, F, far)), rel=1e-15)
    assert_values(
        {name: found[name] for name in set(MEASURES) - set(NC3)},
        {name: value for name, value in one_batch(H, labels, W).items() if name not in NC3},
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda H, labels: (H[:, :5], labels),
            r"H: expected floating point numbers of shape \(b, 6\), not .*\(60, 5\)",
        ),
        (lambda H, labels: (H[0], labels[:1]), r"H: expected floating point numbers of shape \(b, 6\), not .*\(6,\)"),
        (lambda H, labels: (H.long(), labels), r"H: expected floating point numbers .*not torch.int64"),
        (lambda H, labels: (H, labels[1:]), r"labels: expected 60 integers, one a row of H, not .*\(59,\)"),
        (lambda H, labels: (H, labels.double()), r"labels: expected 60 integers, one a row of H, not torch.float64"),
        (lambda H, labels: (H, labels + 1), r"labels: expected 0 to 3, found 1 to 4"),
        (lambda H, labels: (H, labels - 100), r"labels: expected 0 to 3, found -100 to -97"),
    ],
)
def test_bad_input(change, message):
    H, labels, _ = data()
    metric = NeuralCollapse(Q, P)
    with pytest.raises(ValueError, match=message) as caught:
        metric.update(*change(H, labels))
    assert "\n" not in str(caught.value)
    assert not metric.packed.any()


def test_bad_input_of_nc4_and_of_the_constructors():
    H, labels, W = data()
    statistics = class_statistics(H, targets(labels, Q))
    agreement = NearestClassCentre(statistics)
    with pytest.raises(ValueError, match=r"F: expected floating point numbers of shape \(b, 4\)"):
        agreement.update(H, H)
    with pytest.raises(ValueError, match=r"H: expected floating point numbers of shape \(b, 6\)"):
        agreement.update(H[:, :4], H @ W)
    with pytest.raises(ValueError, match=r"F: expected 60 rows, one a row of H, not 59"):
        agreement.update(H, (H @ W)[1:])
    with pytest.raises(ValueError, match=r"statistics: expected means of shape \(q, p\), not \(2, 4, 6\)"):
        NearestClassCentre(class_statistics(H.expand(2, -1, -1), targets(labels, Q).expand(2, -1, -1)))
    for wrong in ((1, 3), (2, 0)):
        with pytest.raises(ValueError, match="at least 2 classes and 1 dimension are needed"):
            NeuralCollapse(*wrong)


def _process(rank, folder):
    """Measure an uneven share of the samples as one of two processes; one class is missing in the second."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    H, labels, W = data()
    metric = NeuralCollapse(Q, P, head=lambda: W)
    share = labels.argsort()[45 * rank : 45 + 15 * rank]
    for batch in share.split(10):
        metric.update(H[batch], labels[batch])
    with metric.sync_context():
        agreement = NearestClassCentre(metric.statistics)
    agreement.update(H[share], (H @ W)[share])
    values = metric.compute() | {"nc4": agreement.compute(), "samples": metric.statistics.counts.sum()}
    torch.save(values, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.processes
def test_two_processes_have_the_value_of_one(tmp_path):
    torch.multiprocessing.spawn(_process, (tmp_path,), nprocs=2)
    H, labels, W = data()
    expected = one_batch(H, labels, W)
    expected["nc4"] = collapse.nc4(H, H @ W, class_statistics(H, targets(labels, Q)))
    for rank, samples in enumerate((45, 15)):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert float(found.pop("samples")) == samples  # after compute() each process has its own share again
        assert_values(found, expected)


@pytest.mark.processes
@pytest.mark.parametrize("module", ["nc_sweeps.metrics", "nc_sweeps.metrics.catalogue"])
def test_the_names_of_metrics_come_without_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_names_are_attribute_errors():
    import nc_sweeps.metrics

    with pytest.raises(AttributeError, match="no attribute 'NeuralColapse'"):
        _ = nc_sweeps.metrics.NeuralColapse


def test_mixed_precision_does_not_reach_the_statistics():
    H, labels, W = data(offset=100.0)
    H = H.float()
    metric = NeuralCollapse(Q, P, head=lambda: W)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        metric.update(H[:30], labels[:30])
        metric.update(H[30:], labels[30:])
        found = metric.compute()
    for name, value in one_batch(H.double(), labels, W).items():
        # Offsets of 100 cost two digits of the class means.
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9, msg=name)
