r"""Neural collapse of any ``LightningModule``, measured while Lightning trains it.

.. code-block:: python

    trainer = pl.Trainer(callbacks=[NeuralCollapseCallback("cross_entropy", every="log")])
    trainer.fit(module, train_loader, val_loader)  # loggers get nc1/train, nc1/val, …

The inputs of the linear head are the features H, its outputs the scores F = HW + b.
"""

import fnmatch
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils.data import DataLoader

from nc_sweeps.errors import DataError, UserError
from nc_sweeps.training.callback.loader import loader_without_repeats
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

    Values go to all loggers and to ``trainer.callback_metrics``, where ``ModelCheckpoint`` and ``EarlyStopping`` find
    them. Training is not affected: weights, buffers, modes, generators and loaders are as without the callback.

    Args:
        loss: the loss that ``loss/*`` and ``gradient_norm/*`` measure; ``"mse"`` is ‖F − Y‖²/(2n) with one-hot Y. The
            certificate applies to ``"mse"`` only.
        head: dotted name of the linear head in the module; None: its last ``torch.nn.Linear``.
        every: number of epochs between two measurements, or ``"log"``: after epochs 1, 2, 3, 4, 6, 8, 11, 16, ….
        training_mode: measure a second time with every layer in the mode in which it trains, where BatchNorm takes its
            statistics from the batch. The names of these values end in ``/training_mode``.
        include: names or patterns of the values to measure. Without ``gradient_norm/*`` there is no backward pass,
            without ``nc4/train*`` no second pass over the training set.
        loaders: data sets by name, to be measured instead of the Trainer's; the first is the training set, from which
            NC4 takes the class centres.
        forward: function that runs the module once on a batch, which is on the device already, and returns the labels:
            integers (b,), 0 to q − 1.

    Attributes:
        values: values of the last measurement by name, in double precision.

    Raises:
        ValueError: unknown loss, or ``every`` below one.
    """

    def __init__(
        self,
        loss: Loss,
        *,
        head: str | None = None,
        every: int | Literal["log"] = 1,
        training_mode: bool = False,
        include: Sequence[str] = ("*",),
        loaders: Mapping[str, DataLoader[Any]] | None = None,
        forward: Callable[[pl.LightningModule, Any], Tensor] = forward_pair,
    ) -> None:
        if loss not in {"mse", "cross_entropy"}:
            raise ValueError(f"loss={loss!r}: expected 'mse' or 'cross_entropy'")
        if every != "log" and (isinstance(every, str) or every < 1):
            raise ValueError(f"every={every!r}: expected a number of epochs, or 'log'")
        self.loss = loss
        self.head = head
        self.every = every
        self.training_mode = training_mode
        self.include = include
        self.loaders = loaders
        self.forward = forward
        self.values: dict[str, float] = {}
        self._measured_at = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the initial state, unless training is resumed and has measured it already."""
        if self.loss == "cross_entropy":
            rank_zero_info(
                "NeuralCollapseCallback: the certificate does not apply to cross-entropy: it compares scores with "
                "one-hot targets, and cross-entropy drives scores to infinity"
            )
        if trainer.global_step == 0:
            self._log_now(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure if the epoch is one of those that ``every`` names."""
        epoch = trainer.current_epoch + 1
        if self._is_due(epoch):
            self.values = self.measure(trainer, pl_module)
            self._measured_at = trainer.global_step
            # All processes have the same values. Averaging them keeps Lightning from warning that they may differ.
            pl_module.log_dict(
                self.values, on_step=False, on_epoch=True, batch_size=1, sync_dist=trainer.world_size > 1
            )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the last state, unless its epoch was measured."""
        if trainer.global_step != self._measured_at:
            self._log_now(trainer, pl_module)

    def measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float]:
        """Measure now. If there are several processes, all of them have to call this.

        Args:
            trainer: the Trainer that trains the module.
            pl_module: the module.

        Returns:
            Values by name.

        Raises:
            UserError: the module has no such head, or does not call it exactly once; ``include`` matches nothing.
            DataError: a data set does not come from one torch ``DataLoader``, or its batches have another form.
            ValueError: labels or features have another form.
        """
        loaders = self._build_loaders(trainer)
        with isolate_rng():
            with _restore_after(pl_module):
                pl_module.eval()
                values = self._measure(trainer, pl_module, loaders, "")
            if self.training_mode:
                with _restore_after(pl_module):
                    values |= self._measure(trainer, pl_module, loaders, "/training_mode")
        complete = self.loaders is not None or trainer.val_dataloaders is not None or not trainer.enable_validation
        for pattern in self.include:
            if complete and not fnmatch.filter(values, pattern):
                raise UserError(f"include={pattern}: there is nothing of this name to measure here")
        return {name: value for name, value in values.items() if self._wants(name)}

    def _is_due(self, epoch: int) -> bool:
        if self.every == "log":
            return round(2 ** (round(2 * math.log2(epoch)) / 2)) == epoch
        return epoch % self.every == 0

    def _wants(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.include)

    def _log_now(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure, and write to the loggers at once: Lightning would hold the values back to the end of an epoch."""
        self.values = self.measure(trainer, pl_module)
        self._measured_at = trainer.global_step
        for logger in trainer.loggers:
            logger.log_metrics(self.values, step=trainer.global_step)

    def _build_loaders(self, trainer: pl.Trainer) -> dict[str, DataLoader[Any]]:
        originals: dict[str, object] = {}
        if self.loaders is not None:
            originals |= self.loaders
        else:
            originals["train"] = trainer.train_dataloader
            validation = trainer.val_dataloaders
            if isinstance(validation, list | tuple):
                validation = validation[0] if len(validation) == 1 else dict(enumerate(validation))
            if isinstance(validation, Mapping):
                originals |= {f"val/{key}": loader for key, loader in validation.items()}
            elif validation is not None:
                originals["val"] = validation
        rank, processes = trainer.global_rank, trainer.world_size
        return {name: loader_without_repeats(loader, rank, processes) for name, loader in originals.items()}

    def _measure(
        self, trainer: pl.Trainer, module: pl.LightningModule, loaders: Mapping[str, DataLoader[Any]], mode: str
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
            gradient = Gradient(module) if self._wants(norm) else None
            values = measure_sets(sets, head, self.loss, gradient, self._wants)
            if gradient is not None:
                add_processes = partial(trainer.strategy.reduce, reduce_op="sum")
                values[norm] = compute_norm(gradient.compute(add_processes).values())
            if not mode:
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
        precision = trainer.precision_plugin
        for raw in loader:
            batch = module._on_before_batch_transfer(precision.convert_input(raw))
            batch = trainer.strategy.batch_to_device(batch)
            with torch.set_grad_enabled(with_gradient), precision.forward_context():
                labels, H, scores = probe.watch(partial(self.forward, module, batch))
            if not isinstance(labels, Tensor):
                raise DataError(f"labels of type {type(labels).__name__}: expected a tensor of integers")
            H = H.to(head.W.device).double()
            yield Batch(H, head.compute_scores(H), scores, labels.to(head.W.device))


@contextmanager
def _restore_after(module: nn.Module) -> Iterator[None]:
    """Restore the modes and buffers of a module when the context ends."""
    modes = {part: part.training for part in module.modules()}
    buffers = [
        (part, name, buffer, buffer.clone())
        for part in module.modules()
        for name, buffer in part.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
        with torch.no_grad():
            for part, name, buffer, value in buffers:
                setattr(part, name, buffer.copy_(value))
