"""The callback in the trainings of others: what goes by its values, parts of data sets, other steps, and mistakes."""

import os

import jaxtyping
import pytest
import pytorch_lightning
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from nc_sweeps import NeuralCollapseCallback
from nc_sweeps.errors import DataError, UserError
from nc_sweeps.training.callback.loader import loader_without_repeats
from nc_sweeps.training.callback.probe import Probe

TRAIN = TensorDataset(torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3)
VALIDATION = TensorDataset(torch.randn(24, 6, generator=torch.Generator().manual_seed(1)), torch.arange(24) % 3)


class Classifier(pytorch_lightning.LightningModule):
    """A perceptron with BatchNorm, and with an auxiliary head if it has outputs."""

    def __init__(self, auxiliary=0, calls_auxiliary=True, plateau=None, optimisers=1, compiled=False):
        super().__init__()
        torch.manual_seed(0)
        body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.body = torch.compile(body, backend="eager") if compiled else body
        self.fc = nn.Linear(8, 3)
        self.auxiliary = nn.Linear(8, auxiliary) if auxiliary else None
        self.calls_auxiliary, self.plateau = calls_auxiliary, plateau
        self.optimisers, self.automatic_optimization = optimisers, optimisers == 1

    def forward(self, x):
        features = self.body(x)
        if self.auxiliary is not None and self.calls_auxiliary:
            self.auxiliary(features)
        return self.fc(features)

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]).float(), batch[1])
        if not self.automatic_optimization:
            for optimiser in self.optimizers():
                optimiser.zero_grad()
            self.manual_backward(loss)
            for optimiser in self.optimizers():
                optimiser.step()
        return loss

    def validation_step(self, batch, batch_idx):
        self(batch[0])

    def configure_optimizers(self):
        if self.optimisers == 2:
            return [torch.optim.SGD(part.parameters(), 0.1) for part in (self.body, self.fc)]
        optimiser = torch.optim.SGD(self.parameters(), 0.1)
        if self.plateau is None:
            return optimiser
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, patience=0)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": scheduler, "monitor": self.plateau}}


def make_trainer(*callbacks, epochs=2, **options):
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    return pytorch_lightning.Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=list(callbacks), logger=False, enable_checkpointing=saves,
        enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip


def fit(module, *callbacks, **options):
    trainer = make_trainer(*callbacks, **options)
    trainer.fit(module, DataLoader(TRAIN, 8, shuffle=True), DataLoader(VALIDATION, 8))
    return trainer


class Watch(pytorch_lightning.Callback):
    """Measures everything after every epoch, apart from the callback under test."""

    def __init__(self):
        self.callback, self.values = NeuralCollapseCallback("cross_entropy"), []

    def on_train_epoch_end(self, trainer, pl_module):
        self.values.append(self.callback.measure(trainer, pl_module))


@pytest.mark.parametrize("every", [1, 5, "log"])
def test_a_checkpoint_goes_by_the_value_of_the_state_that_it_saves(every, tmp_path):
    watch = Watch()
    kept = ModelCheckpoint(tmp_path, monitor="nc1/val", filename="{epoch}-{nc1_val:.4f}", save_top_k=-1)
    fit(Classifier(), watch, NeuralCollapseCallback("cross_entropy", every=every), kept, epochs=3)
    names = [f"epoch={epoch}-nc1_val={values['nc1/val']:.4f}.ckpt" for epoch, values in enumerate(watch.values)]
    assert sorted(os.listdir(tmp_path)) == names  # files, and no folder


@pytest.mark.parametrize("options", [{}, {"check_val_every_n_epoch": 2}, {"val_check_interval": 0.4}])
def test_values_are_there_whenever_one_looks(options, tmp_path):
    monitors = [EarlyStopping("gradient_norm_train", patience=99), ModelCheckpoint(tmp_path, monitor="nc1/train")]
    callback = NeuralCollapseCallback("cross_entropy", every=5)
    trainer = fit(Classifier(plateau="loss/val"), *monitors, callback, epochs=4, **options)
    assert trainer.current_epoch == 4
    assert monitors[1].best_model_score is not None


def test_patience_counts_epochs_with_values_of_their_own():
    """The value that is monitored falls, so that stale copies of it would be taken for a standstill."""
    stop = EarlyStopping("loss/train", patience=2)
    assert fit(Classifier(), NeuralCollapseCallback("cross_entropy", every=5), stop, epochs=6).current_epoch == 6
    waits = EarlyStopping("loss/train", patience=2, strict=False)
    assert fit(Classifier(), NeuralCollapseCallback("cross_entropy", every=5), waits, epochs=9).current_epoch == 9
    assert waits.wait_count == 0


def test_looks_within_epochs_are_refused(tmp_path):
    kept = ModelCheckpoint(tmp_path, monitor="nc1/val", every_n_train_steps=2)
    with pytest.raises(UserError, match=r"ModelCheckpoint\(monitor='nc1/val'\): looks within epochs"):
        fit(Classifier(), NeuralCollapseCallback("cross_entropy"), kept)


@pytest.mark.parametrize(
    ("options", "samples"),
    [
        ({"fast_dev_run": True}, {"train": 8, "val": 8}),
        ({"overfit_batches": 2}, {"train": 16, "val": 16}),
        ({"limit_train_batches": 3, "limit_val_batches": 1}, {"train": 24, "val": 8}),
    ],
)
def test_it_measures_what_the_trainer_goes_through(options, samples):
    told = []
    callback = NeuralCollapseCallback("cross_entropy")
    callback._tell = told.append
    fit(Classifier(), callback, **options)
    for name, count in samples.items():
        assert any(f"measures {count} samples of {name}, as many as the Trainer" in line for line in told)


def test_of_a_limited_loader_it_takes_the_samples_that_are_trained():
    ordered, drawn = DataLoader(TRAIN, 8), DataLoader(TRAIN, 8, shuffle=True)
    first = [x for part in range(2) for batch in loader_without_repeats(ordered, part, 2, limit=1) for x in batch[0]]
    assert {tuple(x.tolist()) for x in first} == {tuple(x.tolist()) for x in TRAIN.tensors[0][:16]}
    twice = [torch.cat([batch[0] for batch in loader_without_repeats(drawn, 0, 1, limit=2)]) for _ in range(2)]
    assert len(twice[0]) == 16
    assert twice[0].equal(twice[1])


@pytest.mark.parametrize(
    ("module", "options"),
    [
        ({}, {"accumulate_grad_batches": 3}),
        ({"optimisers": 2}, {}),
        ({}, {"precision": "bf16-true"}),
        ({}, {"precision": "bf16-mixed"}),
        ({"compiled": True}, {}),
    ],
)
def test_other_ways_to_train(module, options):
    callback = NeuralCollapseCallback("mse")
    trainer = fit(Classifier(**module), callback, **options)
    values = callback.values
    assert values["nc1/train"] <= values["certificate/nc1_bound/train"] * (1 + 1e-9)
    assert values["gradient_norm/train"] > 0
    assert values["batch_norm/recalibrated"] == 1
    assert callback._measured_at == trainer.global_step


def test_a_validation_alone_is_measured_if_the_training_set_is_known():
    module, told = Classifier(), []
    given = {"train": DataLoader(TRAIN, 8), "val": DataLoader(VALIDATION, 8)}
    callback = NeuralCollapseCallback("mse", loaders=given)
    (found,) = make_trainer(callback).validate(module, DataLoader(VALIDATION, 8), verbose=False)
    assert found["nc1/val"] == pytest.approx(callback.values["nc1/val"], rel=1e-6)
    assert callback.values["gradient_norm/train"] > 0
    alone = NeuralCollapseCallback("mse")
    alone._tell = told.append
    make_trainer(alone).validate(module, DataLoader(VALIDATION, 8), verbose=False)
    assert told[0].startswith(
        "measures nothing in Trainer.validate, which knows no training set; give the data sets as"
    )


@pytest.mark.parametrize(
    ("module", "error", "message"),
    [
        ({"auxiliary": 2}, ValueError, "head=auxiliary has 2 outputs. It is the last Linear; name the .* as head="),
        ({"auxiliary": 3, "calls_auxiliary": False}, UserError, "called 0 times .* head=…: 'body.0', 'fc'"),
        ({"auxiliary": 1}, UserError, "has one output; .* head=…: 'body.0', 'fc'"),
    ],
)
def test_an_auxiliary_head_is_told_how_to_name_the_other(module, error, message):
    with pytest.raises(error, match=message) as caught:
        fit(Classifier(**module), NeuralCollapseCallback("mse"))
    assert "\n" not in str(caught.value)


def test_of_two_heads_it_tells_which_one_it_takes():
    told = []
    callback = NeuralCollapseCallback("mse")
    callback._tell = told.append
    fit(Classifier(auxiliary=5), callback)
    assert told[0].startswith("takes 'auxiliary', the last Linear, as the head; if 'fc' is meant")
    told.clear()
    named = NeuralCollapseCallback("mse", head="fc")
    named._tell = told.append
    fit(Classifier(auxiliary=5), named)
    assert not told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"include": ["nc9/*"]}, r"include=nc9/\*: there is nothing of this name to measure; did you mean"),
        ({"include": ["nc1"]}, r"include=nc1: .*did you mean nc1/\*\?"),
        ({"include": "nc1/*"}, "expected a list of names or patterns"),
        ({"include": []}, "names nothing"),
        ({"include": [3]}, "3 is not a name or pattern"),
        ({"include": ["nc1/train/training_mode"]}, "is measured with training_mode=True only"),
        ({"loss": "cross_entropy", "include": ["certificate/*"]}, "is measured with loss='mse' only"),
        ({"include": ["nc1/test"]}, "include=nc1/test"),
        ({"loaders": 3}, "loaders=3: expected loaders by name"),
        ({"loaders": {}}, "loaders={}"),
        ({"loaders": {"train": [1]}}, "loaders: train: data of type list"),
        ({"head": 3}, "head=3"),
        ({"every": 2.5}, "every=2.5"),
        ({"every": True}, "every=True"),
        ({"forward": 3}, "forward=3"),
        ({"training_mode": "yes"}, "training_mode='yes'"),
        ({"batch_norm": "best"}, "batch_norm='best': expected 'recalibrated', 'running', 'batch'"),
        ({"loss": ["mse"]}, r"loss=\['mse'\]"),
    ],
)
def test_bad_arguments_are_refused_when_the_callback_is_made(options, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users have no checker of types
    with pytest.raises((ValueError, DataError), match=message) as caught:
        NeuralCollapseCallback(**({"loss": "mse"} | options))
    assert "\n" not in str(caught.value)


def test_several_validation_loaders_may_be_named():
    NeuralCollapseCallback("mse", include=["nc1/val/0", "nc1/val/clean", "nc?/val*", "balancedness"])


def test_a_process_without_samples_has_the_layers_of_process_0():
    module = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    told = []
    with Probe(module) as first:
        first.watch(lambda: module(torch.randn(2, 4)))
        first.share_previous(lambda path: told.append(path) or path)
    idle = Probe(module)
    idle.share_previous(lambda path: told[0])
    assert idle.previous is first.previous is module[0]
