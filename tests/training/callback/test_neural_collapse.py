"""The callback gives the numbers of a direct computation, in one process and in two, and does not affect training."""

import random
import subprocess
import sys

import jaxtyping
import numpy as np
import polars as pl
import pytest
import pytorch_lightning
import torch
import torchvision
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_module
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, Sampler, SubsetRandomSampler, TensorDataset

from nc_sweeps import NeuralCollapseCallback
from nc_sweeps.errors import DataError, UserError
from nc_sweeps.metrics import collapse
from nc_sweeps.metrics.balancedness import balancedness
from nc_sweeps.metrics.prediction import balanced_error, mean_square_loss
from nc_sweeps.metrics.statistics import class_statistics
from nc_sweeps.metrics.streaming import measure_collapse
from nc_sweeps.theory.certificate import certificate
from nc_sweeps.training.batch_norm import mix_into_batches, use_statistics
from nc_sweeps.training.callback.loader import loader_without_repeats
from nc_sweeps.training.callback.neural_collapse import forward_pair
from nc_sweeps.training.callback.probe import Probe
from tests.processes import PATIENCE
from tests.training.callback.third_party import HELD_OUT, TRAIN, VALIDATION, ConvNet, loaders, train

#: How a row of values says that the one layer of BatchNorm was measured with its running statistics.
RUNNING = {"batch_norm/running": 1.0}
SPLITS = {"train": TRAIN.tensors, "val": tuple(Z[HELD_OUT] for Z in VALIDATION.tensors)}


def measure_directly(module, loss="mse"):
    """Return all that the callback measures, from all features at once, in the present modes of the module."""
    W, b = module.fc.weight.detach().mT, module.fc.bias.detach()
    values, centres = {}, None
    for split, (x, labels) in SPLITS.items():
        with torch.no_grad():
            H = module.hidden(module.conv(x))
        F, Y = H @ W + b, nn.functional.one_hot(labels, 3).double()
        statistics = class_statistics(H, Y)
        centres = centres or statistics
        found = measure_collapse(statistics, W)
        found |= {"nc4": collapse.nc4(H, F, centres), "error": balanced_error(F, Y)}
        found["loss"] = mean_square_loss(F, Y) if loss == "mse" else nn.functional.cross_entropy(F, labels)
        if loss == "mse":
            bound = certificate(H, W, Y, torch.ones((), dtype=torch.float64), b)
            found |= {f"certificate/{name}": value for name, value in vars(bound).items()}
            found["certificate/tightness"] = found["nc1"] / bound.nc1_bound
        values |= {f"{name}/{split}": float(value) for name, value in found.items()}
    x, labels = SPLITS["train"]
    F, Y = module(x), nn.functional.one_hot(labels, 3).double()
    mean = mean_square_loss(F, Y) if loss == "mse" else nn.functional.cross_entropy(F, labels)
    gradients = torch.autograd.grad(mean, list(module.parameters()))
    values["gradient_norm/train"] = float(torch.cat([gradient.flatten() for gradient in gradients]).norm())
    return values


def recalibrated(module):
    """Return a context in which BatchNorm has the statistics of the training set."""
    batches = [TRAIN.tensors[0][chosen] for chosen in mix_into_batches(len(TRAIN), 8)]
    return use_statistics("recalibrated", [module.conv[1]], lambda: [module(batch) for batch in batches])


def measure_layers(module):
    W = module.fc.weight.detach().mT
    singular, V = torch.linalg.svdvals(W), module.hidden.weight.detach()
    balance = balancedness(V @ V.mT, W)
    return {"head/sigma_min": float(singular[-1]), "head/sigma_max": float(singular[0]), "balancedness": float(balance)}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # Sums of 45 terms of order 1 in another order; the worst conditioned metric divides by 1e-3.
        assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-11), name


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_values_are_those_of_all_features_at_once(loss, caplog):
    callback, module = NeuralCollapseCallback(loss, batch_norm="running"), ConvNet(loss)
    with caplog.at_level("INFO", logger=rank_zero_module.log.name):
        trainer = train(module, callback)
    assert_same(callback.values, measure_directly(module.eval(), loss) | measure_layers(module) | RUNNING)
    for name, value in callback.values.items():
        assert float(trainer.callback_metrics[name]) == pytest.approx(value, rel=1e-6), name
    assert ("does not apply to cross-entropy" in caplog.text) == (loss == "cross_entropy")
    if loss == "mse":
        for split in SPLITS:
            assert callback.values[f"nc1/{split}"] <= callback.values[f"certificate/nc1_bound/{split}"] * (1 + 1e-12)


def test_training_mode_on_request():
    # With one batch and without dropout, BatchNorm takes its statistics from the whole set.
    callback = NeuralCollapseCallback("mse", training_mode=True, batch_norm="running")
    module = ConvNet(dropout=0.0)
    train(module, callback, batch_size=45)
    module.train()
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    expected = {f"{name}/training_mode": value for name, value in measure_directly(module).items()}
    module.load_state_dict(module.state_dict() | buffers)
    expected |= measure_directly(module.eval()) | measure_layers(module) | RUNNING
    assert_same(callback.values, expected)
    assert abs(expected["nc1/train"] - expected["nc1/train/training_mode"]) > 1e-3


class Draws(pytorch_lightning.Callback):
    """Keeps the numbers that the generators give after training."""

    def on_train_end(self, trainer, pl_module):
        self.drawn = [float(torch.rand(())), float(np.random.rand()), random.random()]


def test_training_does_not_notice_it(monkeypatch):
    # Users have no checker of types; it draws numbers to choose the entries of a list that it checks.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    states = []
    for callbacks in ([], [NeuralCollapseCallback("mse", training_mode=True)]):
        module, draws = ConvNet(), Draws()
        module.conv[2].eval()  # as one freezes a layer
        trainer = train(module, *callbacks, draws, epochs=3)
        optimiser = trainer.optimizers[0].state_dict()["state"]
        momenta = {f"momentum {key}": value["momentum_buffer"] for key, value in optimiser.items()}
        modes = [part.training for part in module.modules()]
        states.append((module.state_dict() | momenta, draws.drawn, modes))
    (plain, drawn, modes), (watched, drawn_too, modes_too) = states
    assert all(torch.equal(value, watched[name]) for name, value in plain.items())
    assert drawn == drawn_too
    assert modes == modes_too
    assert plain.keys() == watched.keys()


def test_log_spaced_epochs_reach_any_logger(tmp_path):
    callback = NeuralCollapseCallback("mse", every="log", include=["nc1/*", "certificate/nc1_bound/*"])
    train(ConvNet(), callback, epochs=9, logger=CSVLogger(tmp_path, "", ""), log_every_n_steps=1)
    table = pl.read_csv(tmp_path / "metrics.csv").filter(pl.col("nc1/train").is_not_null())
    # Five steps an epoch; Lightning counts them from 0. The initial and the last state are always measured.
    assert table["step"].to_list() == [0, *(5 * epoch - 1 for epoch in (1, 2, 3, 4, 6, 8)), 45]
    assert table["nc1/val"].is_not_null().all()
    assert table["nc1/train"][-1] == callback.values["nc1/train"]
    names = {name for name in table.columns if name.startswith(("nc1/", "certificate/", "batch_norm/"))}
    assert set(callback.values) == names
    assert table["batch_norm/recalibrated"].eq(1).all()  # every row says so


def test_other_callbacks_find_the_values(tmp_path):
    callback = NeuralCollapseCallback("mse", every=2, include=["nc1/val", "gradient_norm/train"])
    best = ModelCheckpoint(tmp_path, monitor="nc1/val", every_n_epochs=2)
    stop = EarlyStopping("gradient_norm/train", stopping_threshold=1e9, check_on_train_epoch_end=True, strict=False)
    trainer = train(ConvNet(), callback, best, stop, epochs=7, enable_checkpointing=True)
    assert trainer.current_epoch == 2
    assert float(best.best_model_score) == pytest.approx(callback.values["nc1/val"], rel=1e-6)
    assert set(callback.values) == {"nc1/val", "gradient_norm/train", "batch_norm/recalibrated"}


@pytest.mark.processes
def test_two_processes_have_the_values_of_one(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "tests.training.callback.third_party", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    assert "self.log('nc" not in done.stderr  # Lightning does not warn that processes may disagree
    module = ConvNet().double()
    for rank in range(2):
        values, logged, state = torch.load(tmp_path / f"{rank}.pt")
        module.load_state_dict(state)
        with recalibrated(module.eval()):
            assert_same(values, measure_directly(module) | measure_layers(module) | {"batch_norm/recalibrated": 1.0})
        for name, value in values.items():
            assert logged[name] == pytest.approx(value, rel=1e-6), name


class Other(pytorch_lightning.LightningModule):
    """A module whose batches are dictionaries."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, *inputs):
        return self.network(*inputs)

    def training_step(self, batch, batch_idx):
        return self(batch["x"]).square().mean()

    def train_dataloader(self):
        x = torch.randn(12, 4)
        return DataLoader([{"x": x[i], "kind": i % 3} for i in range(12)], batch_size=5)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(module, callback, epochs=1):
    trainer = pytorch_lightning.Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=[callback], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module)


def forward_dict(module, batch):
    module(batch["x"])
    return batch["kind"]


def test_other_batches_and_other_data_sets():
    test = DataLoader([{"x": torch.ones(4), "kind": 2}], batch_size=7)
    module = Other(nn.Linear(4, 3))
    callback = NeuralCollapseCallback(
        "cross_entropy", forward=forward_dict, loaders={"train": module.train_dataloader(), "test": test}
    )
    fit(module, callback)
    expected = nn.functional.cross_entropy(module(torch.ones(1, 4)), torch.tensor([2])).detach()
    assert callback.values["loss/test"] == pytest.approx(float(expected), rel=1e-6)
    assert callback.values["error/test"] != callback.values["error/test"]  # two classes have no sample
    assert not any(name.startswith(("balancedness", "certificate")) for name in callback.values)


def test_a_diverged_training_has_no_values():
    module = Other(nn.Linear(4, 3))
    nn.init.constant_(module.network.weight, torch.nan)
    callback = NeuralCollapseCallback("mse", forward=forward_dict)
    fit(module, callback)
    assert np.isnan(callback.values["loss/train"])
    assert np.isnan(callback.values["head/sigma_min"])
    assert np.isnan(callback.values["certificate/nc1_bound/train"])


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(self.fc(x))


@pytest.mark.parametrize(
    ("network", "options", "error", "message"),
    [
        (nn.Linear(4, 3), {"forward": forward_pair}, DataError, r"batch of type dict: expected \(x, labels\)"),
        (nn.Conv1d(1, 1, 1), {}, UserError, "Other has no torch.nn.Linear that could be its head"),
        (nn.Linear(4, 3), {"head": "netwrk"}, UserError, r"head=netwrk: .*did you mean network"),
        (nn.Linear(4, 1), {}, UserError, "head=network: has one output"),
        (Twice(), {}, UserError, "head=network.fc: called 2 times"),
        (nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Linear(2, 3)), {}, UserError, r"its input has shape \(4, 2, 2\)"),
        (nn.Linear(4, 2), {}, ValueError, r"labels: expected 0 to 1, found \d to 2"),
        (nn.Linear(4, 3), {"forward": lambda m, b: (m(b["x"]), b["x"])[1]}, ValueError, "labels: expected 4 integers"),
        (nn.Linear(4, 3), {"forward": lambda m, b: (m(b["x"]), None)[1]}, DataError, "labels of type NoneType"),
        (
            nn.Linear(4, 3),
            {"include": ["balancedness"]},
            UserError,
            "include=balancedness: there is nothing of this name",
        ),
    ],
)
def test_what_cannot_be_measured_is_told_in_one_line(network, options, error, message):
    options = {"forward": forward_dict} | options
    with pytest.raises(error, match=message) as caught:
        fit(Other(network), NeuralCollapseCallback("mse", **options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("loss", "every", "message"), [("nll", 1, "loss='nll'"), ("mse", 0, "every=0"), ("mse", "exp", "every='exp'")]
)
def test_bad_options(loss, every, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users have no checker of types
    with pytest.raises(ValueError, match=message):
        NeuralCollapseCallback(loss, every=every)


@pytest.mark.parametrize(("name", "head"), [("resnet18", "fc"), ("vgg11", "classifier.6")])
def test_heads_of_known_networks(name, head):
    with torch.device("meta"):
        module, x = torchvision.models.get_model(name, num_classes=10).eval(), torch.empty(2, 3, 224, 224)
    with Probe(module) as probe:
        _, H, F = probe.watch(lambda: module(x))
    assert probe.name == head
    assert (H.shape[1], F.shape) == (probe.head.in_features, (2, 10))
    assert probe.previous is None  # a ReLU that works in place lies between


@pytest.mark.parametrize(
    ("between", "in_a_row"),
    [([], True), ([nn.Identity(), nn.Dropout()], True), ([nn.ReLU()], False), ([nn.ReLU(inplace=True)], False)],
)
def test_two_linear_layers_in_a_row(between, in_a_row):
    module = nn.Sequential(nn.Linear(4, 5), *between, nn.Linear(5, 3)).eval()
    with Probe(module) as probe:
        probe.watch(lambda: module(torch.randn(2, 4)))
    assert (probe.previous is module[0]) == in_a_row
    assert not any(layer._forward_hooks for layer in module)


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_every_sample_lies_in_one_batch_of_one_process(processes):
    drawn = DataLoader(TensorDataset(torch.arange(45)), batch_size=8, shuffle=True, drop_last=True)
    parts = [loader_without_repeats(drawn, process, processes) for process in range(processes)]
    batches = [batch[0] for part in parts for batch in part]
    assert torch.cat(batches).sort().values.equal(torch.arange(45))
    assert max(map(len, batches)) <= 8
    assert all(len(batch) > 1 for batch in batches)  # BatchNorm cannot handle a single sample
    few = DataLoader(TensorDataset(torch.arange(2)), batch_size=8)
    assert sum(len(list(loader_without_repeats(few, process, processes))) for process in range(processes)) == min(
        2, processes
    )


def test_kinds_of_loaders():
    numbers = list(range(10))
    subset = DataLoader(numbers, batch_size=4, sampler=SubsetRandomSampler([1, 5, 7]))
    assert sorted(torch.cat(list(loader_without_repeats(subset, 0, 1))).tolist()) == [1, 5, 7]
    own = DataLoader(numbers, batch_size=None, sampler=RandomSampler(numbers))
    assert sorted(int(x) for x in loader_without_repeats(own, 0, 1)) == numbers

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(numbers)

    assert [len(x) for x in loader_without_repeats(DataLoader(Stream(), batch_size=4), 0, 1)] == [4, 4, 2]

    class Mine(Sampler):
        def __iter__(self):
            return iter([3, 1])

    with pytest.raises(DataError, match="data drawn by a Mine: which samples there are is unknown"):
        loader_without_repeats(DataLoader(numbers, sampler=Mine()), 0, 1)

    class MineInBatches(Mine):
        def __iter__(self):
            return iter([[3, 1]])

    with pytest.raises(DataError, match="drawn by a MineInBatches"):
        loader_without_repeats(DataLoader(numbers, batch_sampler=MineInBatches()), 0, 1)

    with pytest.raises(DataError, match="data of type list: expected one torch DataLoader"):
        loader_without_repeats(numbers, 0, 1)


def test_the_loader_of_the_training_is_left_alone():
    generator = torch.Generator().manual_seed(1)
    loader = DataLoader(TRAIN, batch_size=8, shuffle=True, generator=generator)
    before = generator.get_state()
    assert len(list(loader_without_repeats(loader, 0, 1))) == 6
    assert generator.get_state().equal(before)
    assert loaders()[0].drop_last


@pytest.mark.processes
def test_the_package_has_it_without_lightning():
    code = "import sys, nc_sweeps; nc_sweeps.__all__.index('NeuralCollapseCallback'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
