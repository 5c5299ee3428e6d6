r"""Neural collapse of any ``LightningModule``, measured while Lightning trains it.

.. code-block:: python

    trainer = pl.Trainer(callbacks=[NeuralCollapseCallback("cross_entropy", every="log")])
    trainer.fit(module, train_loader, val_loader)  # loggers get nc1/train, nc1/val, …

The inputs of the linear head are the features H, its outputs the scores F = HW + b.
"""

import fnmatch
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from nc_sweeps.errors import DataError, UserError
from nc_sweeps.training.batch_norm import Statistics, find_batch_norms, use_statistics
from nc_sweeps.training.callback.arguments import check_arguments, check_include, check_loaders, list_names
from nc_sweeps.training.callback.data_sets import DataSets
from nc_sweeps.training.callback.isolation import restore_after, run_eagerly
from nc_sweeps.training.callback.monitors import Monitor, find_monitors, name_without_slashes
from nc_sweeps.training.callback.probe import Probe
from nc_sweeps.training.passes import Batch, Gradient, Head, Loss, compute_norm, measure_layers, measure_sets


def forward_pair(module: pl.LightningModule, batch: Any) -> Tensor:
    """Run a module on a batch ``(x, labels)``.

    Returns:
        The labels.

    Raises:
        DataError: the batch is not a pair.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise DataError(
            f"batch of type {type(batch).__name__}: expected (x, labels); for anything else give a function that runs "
            "the module and returns labels as NeuralCollapseCallback(forward=…)"
        )
    x, labels = batch
    module(x)
    return labels  # type: ignore[no-any-return]


class NeuralCollapseCallback(pl.Callback):
    """Measures a module on its training and validation sets before training, after chosen epochs and at the end.

    Values go to all loggers and to ``trainer.callback_metrics``, where ``ModelCheckpoint``, ``EarlyStopping`` and
    ``ReduceLROnPlateau`` find them, also by names without slashes, as ``nc1_val``. What one of these goes by is
    measured whenever it looks at it. Training is not affected: weights, buffers, modes, generators and loaders are as
    without the callback.

    Args:
        loss: the loss that ``loss/*`` and ``gradient_norm/*`` measure; ``"mse"`` is ‖F − Y‖²/(2n) with one-hot Y. The
            certificate applies to ``"mse"`` only.
        head: dotted name of the linear head in the module; None: its last ``torch.nn.Linear``.
        every: number of epochs between two measurements, or ``"log"``: after epochs 1, 2, 3, 4, 6, 8, 11, 16, ….
        training_mode: measure a second time with every layer in the mode in which it trains, where BatchNorm takes its
            statistics from the batch. The names of these values end in ``/training_mode``.
        batch_norm: statistics that BatchNorm uses, where it is trained: ``"recalibrated"``: those of the whole training
            set, ``"running"``: those that it keeps, or ``"batch"``: those of each batch. Every row of values names
            them: ``batch_norm/recalibrated`` is the number of layers that were recalibrated.
        include: names or patterns of the values to measure. Without ``gradient_norm/*`` there is no backward pass,
            without ``nc4/train*`` no second pass over the training set.
        loaders: data sets by name, to be measured instead of the Trainer's; the first is the training set, from which
            NC4 takes the class centres.
        forward: function that runs the module once on a batch, which is on the device already, and returns the labels:
            integers (b,), 0 to q − 1.

    Attributes:
        values: values of the last measurement by name, in double precision.

    Raises:
        ValueError: an argument that makes no sense.
        DataError: one of ``loaders`` does not say which samples it has.
    """

    def __init__(
        self,
        loss: Loss,
        *,
        head: str | None = None,
        every: int | Literal["log"] = 1,
        training_mode: bool = False,
        batch_norm: Statistics = "recalibrated",
        include: Sequence[str] = ("*",),
        loaders: Mapping[str, DataLoader[Any]] | None = None,
        forward: Callable[[pl.LightningModule, Any], Tensor] = forward_pair,
    ) -> None:
        check_arguments(loss, head, every, training_mode, batch_norm, forward)
        check_loaders(loaders)
        check_include(include, loss, training_mode, None if loaders is None else list(loaders))
        self.loss = loss
        self.head = head
        self.every = every
        self.training_mode = training_mode
        self.batch_norm = batch_norm
        self.include = include
        self.loaders = loaders
        self.forward = forward
        self.values: dict[str, float] = {}
        self._measured_at = -1
        self._trained_batch_norms: list[_BatchNorm] = []
        self._told: set[str] = set()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Note which layers of BatchNorm are trained, before any validation puts them into evaluation mode."""
        self._trained_batch_norms = find_batch_norms(pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the initial state, unless training is resumed and has measured it already."""
        if self.loss == "cross_entropy":
            rank_zero_info(
                "NeuralCollapseCallback: the certificate does not apply to cross-entropy: it compares scores with "
                "one-hot targets, and cross-entropy drives scores to infinity"
            )
        for monitor in find_monitors(trainer):
            if monitor.within_epochs and self._list_own([monitor.value], trainer):
                raise UserError(
                    f"{monitor.owner}(monitor={monitor.value!r}): looks within epochs, and NeuralCollapseCallback "
                    "measures at their ends; have it look every few epochs instead"
                )
        if trainer.global_step == 0:
            self._log_now(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note which layers of BatchNorm are trained: others may have been frozen or freed since."""
        self._trained_batch_norms = find_batch_norms(pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure if the epoch is one of those that ``every`` names, or what something goes by at its end."""
        epoch = trainer.current_epoch + 1
        if self._is_due(epoch):
            self._log(trainer, pl_module)
            return
        looking = [
            monitor for monitor in find_monitors(trainer) if not monitor.after_validation and epoch % monitor.every == 0
        ]
        self._measure_monitored(trainer, pl_module, looking)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure what something goes by at the end of a validation; without a training, measure everything."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            looking = [monitor for monitor in find_monitors(trainer) if monitor.after_validation]
            self._measure_monitored(trainer, pl_module, looking)
        elif trainer.state.fn != "fit":
            self._log_without_training(trainer, pl_module)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure everything."""
        self._log_without_training(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the last state, unless its epoch was measured."""
        if trainer.global_step != self._measured_at:
            self._log_now(trainer, pl_module)

    def measure(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, include: Sequence[str] | None = None
    ) -> dict[str, float]:
        """Measure now. If there are several processes, all of them have to call this.

        Args:
            trainer: the Trainer that trains the module.
            pl_module: the module.
            include: names or patterns of the values to measure; None: those that the callback was made for.

        Returns:
            Values by name.

        Raises:
            UserError: the module has no such head, or does not call it exactly once; ``include`` matches nothing.
            DataError: a data set does not come from one torch ``DataLoader``, or its batches have another form.
            ValueError: labels or features have another form.
        """
        include = self.include if include is None else include
        wants = partial(_matches, include)
        sets = DataSets(trainer, self.loaders, self._tell)
        if pl_module.training:
            self._trained_batch_norms = find_batch_norms(pl_module)
        parts = set(pl_module.modules())
        batch_norms = [layer for layer in self._trained_batch_norms if layer in parts]
        with isolate_rng(), run_eagerly(), torch.inference_mode(mode=False), torch.no_grad():
            with restore_after(pl_module):
                pl_module.eval()
                run_pass = partial(self._run_training_set, trainer, pl_module, sets)
                add_processes = partial(trainer.strategy.reduce, reduce_op="sum")
                with use_statistics(self.batch_norm, batch_norms, run_pass, add_processes):
                    loaders = sets.build(whole_batches=self.batch_norm == "batch" and bool(batch_norms))
                    values = self._measure(trainer, pl_module, loaders, "", wants)
            if self.training_mode:
                with restore_after(pl_module):
                    values |= self._measure(trainer, pl_module, sets.build(), "/training_mode", wants)
        for pattern in include:
            if sets.are_complete and not fnmatch.filter(values, pattern):
                raise UserError(f"include={pattern}: there is nothing of this name to measure here")
        values = {name: value for name, value in values.items() if wants(name)}
        return values | ({f"batch_norm/{self.batch_norm}": float(len(batch_norms))} if batch_norms else {})

    def _is_due(self, epoch: int) -> bool:
        if self.every == "log":
            return round(2 ** (round(2 * math.log2(epoch)) / 2)) == epoch
        return epoch % self.every == 0

    def _list_own(self, names: Sequence[str], trainer: pl.Trainer) -> list[str]:
        """Return the values that the callback measures and that have one of some names, with or without slashes."""
        try:
            possible = list_names(self.loss, self.training_mode, DataSets(trainer, self.loaders, self._tell).names)
        except DataError:
            return []  # measuring will tell
        return [
            name for name in possible if _matches(self.include, name) and {name, name_without_slashes(name)} & {*names}
        ]

    def _measure_monitored(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, looking: Sequence[Monitor]
    ) -> None:
        """Measure what a callback or scheduler is about to look at, for it alone."""
        for name in self._list_own([monitor.value for monitor in looking], trainer):
            for form in (name, name_without_slashes(name)):
                trainer.callback_metrics.pop(form, None)  # that of an earlier state, which one that waits would take
        if names := self._list_own([monitor.value for monitor in looking if not monitor.waits], trainer):
            self._publish(trainer, self.measure(trainer, pl_module, names))

    def _publish(self, trainer: pl.Trainer, values: Mapping[str, float]) -> None:
        """Give values to the callbacks of the Trainer, also under names that file names can have."""
        for name, value in values.items():
            for form in (name, name_without_slashes(name)):
                trainer.callback_metrics[form] = torch.tensor(value)

    def _log(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure, and have Lightning log the values at the end of the epoch."""
        self.values = self.measure(trainer, pl_module)
        self._measured_at = trainer.global_step
        # All processes have the same values. Averaging them keeps Lightning from warning that they may differ.
        pl_module.log_dict(self.values, on_step=False, on_epoch=True, batch_size=1, sync_dist=trainer.world_size > 1)
        self._publish(trainer, self.values)

    def _log_now(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure, and write to the loggers at once: Lightning would hold the values back to the end of an epoch."""
        self.values = self.measure(trainer, pl_module)
        self._measured_at = trainer.global_step
        self._publish(trainer, self.values)
        for logger in trainer.loggers:
            logger.log_metrics(self.values, step=trainer.global_step)

    def _log_without_training(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure in a validation or test that belongs to no training, if the training set is known."""
        if self.loaders is not None:
            self._log(trainer, pl_module)
            return
        function = "" if trainer.state.fn is None else trainer.state.fn.value
        self._tell(
            f"measures nothing in Trainer.{function}, which knows no training set; give the data sets as "
            "loaders={'train': …, 'val': …}"
        )

    def _tell(self, message: str) -> None:
        """Say something once, in one line."""
        if message not in self._told:
            self._told.add(message)
            rank_zero_warn(f"NeuralCollapseCallback: {message}")

    def _run_training_set(self, trainer: pl.Trainer, module: pl.LightningModule, sets: DataSets) -> None:
        """Run the module on its training set in batches like those of the training."""
        loaders = sets.build(whole_batches=True)
        for batch in self._iterate_raw(trainer, module, next(iter(loaders.values()))):
            with trainer.precision_plugin.forward_context():
                self.forward(module, batch)

    def _measure(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        loaders: Mapping[str, DataLoader[Any]],
        mode: str,
        wants: Callable[[str], bool],
    ) -> dict[str, float]:
        """Return all values, measured in the present modes of the layers, under names that end in ``mode``."""
        if mode and trainer.world_size > 1 and any(isinstance(part, nn.SyncBatchNorm) for part in module.modules()):
            raise UserError("training_mode=True: SyncBatchNorm waits for batches that other processes may not have")
        with Probe(module, self.head) as probe:
            head = Head(probe.head)
            sets = {
                name + mode: partial(self._iterate_batches, trainer, module, loader, probe, head)
                for name, loader in loaders.items()
            }
            norm = f"gradient_norm/{next(iter(sets))}"
            gradient = Gradient(module) if wants(norm) else None
            values = measure_sets(sets, head, self.loss, gradient, wants)
            if gradient is not None:
                add_processes = partial(trainer.strategy.reduce, reduce_op="sum")
                values[norm] = compute_norm(gradient.compute(add_processes).values())
            if not mode:
                probe.share_previous(trainer.strategy.broadcast)
                values |= measure_layers(head, probe.previous)
        return {name: float(value) for name, value in values.items()}

    def _iterate_batches(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        loader: DataLoader[Any],
        probe: Probe,
        head: Head,
        with_gradient: bool,
    ) -> Iterator[Batch]:
        """Yield the batches of a pass through a data set, which runs the module as Lightning does."""
        for batch in self._iterate_raw(trainer, module, loader):
            with torch.set_grad_enabled(with_gradient), trainer.precision_plugin.forward_context():
                labels, H, scores = probe.watch(partial(self.forward, module, batch))
            if not isinstance(labels, Tensor):
                raise DataError(f"labels of type {type(labels).__name__}: expected a tensor of integers")
            probe.check_labels(labels)
            if probe.rivals and not probe.is_named:
                others = " or ".join(map(repr, probe.rivals))
                self._tell(
                    f"takes {probe.name!r}, the last Linear, as the head; if {others} is meant, or to say that it is "
                    "not, name the head as head=…"
                )
            H = H.to(head.W.device).double()
            yield Batch(H, head.compute_scores(H), scores, labels.to(head.W.device))

    def _iterate_raw(self, trainer: pl.Trainer, module: pl.LightningModule, loader: DataLoader[Any]) -> Iterator[Any]:
        """Yield the batches of a data set on the device of the module, as Lightning would give them to it."""
        for raw in loader:
            batch = module._on_before_batch_transfer(trainer.precision_plugin.convert_input(raw))
            yield trainer.strategy.batch_to_device(batch)


def _matches(include: Sequence[str], name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in include)
