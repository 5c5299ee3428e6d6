"""The pattern of lightning-hydra-template: a Hydra app, a LightningModule, Lightning's loop, one run a job.

It is written as users of the template write it, always with the faster choice: the DataLoader holds the full batch as
one item, so nothing is collated; the mean-field scaling is the learning rate of a parameter group and the weight decay
is that of SGD; there is no logger, no checkpoint, no progress bar. An epoch is one step, as always with a full batch.

``python -m benchmarks sweep`` runs it. Every job leaves ``timing.json`` in its folder:

- ``begin``, ``seconds``: when the job began, and how long it took, within its process;
- ``steps``, ``step``: number of steps, and seconds of one after the first few, without measurements;
- ``measurements``, ``measurement``: the same for NC1 on both sets;
- ``process``: its number.
"""

import json
import logging
import os
import time
import warnings
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader


class SeparableData(pl.LightningDataModule):
    """Samples whose signs tell the class. They do not have the law of nc-train's data, whose sampler costs more."""

    def __init__(self, config: DictConfig) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(config.seed)
        self.train, self.test = (
            self._draw(per_class, config, generator) for per_class in (config.train_per_class, config.test_per_class)
        )

    def train_dataloader(self) -> DataLoader:
        """Return the full batch."""
        batch: Any = [self.train]
        return DataLoader(batch, batch_size=None)

    @staticmethod
    def _draw(per_class: int, config: DictConfig, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        q = config.num_classes
        labels = torch.arange(q).repeat_interleave(per_class)
        X = torch.randn(len(labels), config.dimension, generator=generator) / config.dimension**0.5
        X[:, :q] = (X[:, :q].abs() + config.margin) * (2 * nn.functional.one_hot(labels, q) - 1)
        return X, labels


class MeanField(pl.LightningModule):
    """The network and its noisy gradient descent."""

    def __init__(self, config: DictConfig) -> None:
        super().__init__()
        self.config = config
        N, d, p = config.width, config.dimension, config.features
        self.U = nn.Parameter(torch.randn(N, d))
        self.A = nn.Parameter(torch.randn(N, p))
        self.W = nn.Parameter(torch.linalg.qr(torch.randn(p, config.num_classes))[0])

    def features(self, X: Tensor) -> Tensor:
        """Return the features H."""
        return torch.tanh(X @ self.U.T) @ self.A / len(self.U)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:  # noqa: ARG002
        """Return the loss."""
        X, labels = batch
        Y = nn.functional.one_hot(labels, self.config.num_classes).float()
        loss = (self.features(X) @ self.W - Y).square().sum() / (2 * len(X))
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return SGD with N times the gradient for the particles, whose weight decay must not be scaled with it."""
        N, eta, decay = self.config.width, self.config.step_size, 1 / self.config.beta
        particles = {"params": [self.U, self.A], "lr": eta * N, "weight_decay": decay / N}
        return torch.optim.SGD([particles, {"params": [self.W], "lr": eta, "weight_decay": decay}])

    def on_train_batch_end(self, *_: Any) -> None:
        """Add the noise."""
        with torch.no_grad():
            for Z in (self.U, self.A):
                Z.add_(torch.randn_like(Z), alpha=(2 * self.config.step_size / self.config.beta) ** 0.5)


class CollapseCallback(pl.Callback):
    """NC1 of the training and of the test features at log-spaced steps."""

    def __init__(self, steps: int, points: int, data: SeparableData) -> None:
        self.steps = {int(step) for step in np.geomspace(1, steps, points).round()}
        self.splits = {"train": data.train, "test": data.test}
        self.rows: list[dict[str, float]] = []
        self.seconds: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Measure after some of the steps."""
        if trainer.global_step not in self.steps:
            return
        begin = time.perf_counter()
        with torch.no_grad():
            row = {f"nc1/{name}": nc1(pl_module.features(X), labels) for name, (X, labels) in self.splits.items()}
        self.rows.append({"step": trainer.global_step, **row})
        self.seconds.append(time.perf_counter() - begin)


def nc1(H: Tensor, labels: Tensor) -> float:
    """Return the share of the variance of the features that lies within classes."""
    within = sum((H[labels == k] - H[labels == k].mean(dim=0)).square().sum() for k in labels.unique())
    return float(within / (H - H.mean(dim=0)).square().sum())


class Stopwatch(pl.Callback):
    """Clocks the time from the end of the warm-up to the end of training."""

    def __init__(self, warm_up: int) -> None:
        self.warm_up = warm_up
        self.begin = self.end = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Start the clock after the warm-up."""
        if trainer.global_step == self.warm_up:
            self.begin = time.perf_counter()

    def on_train_epoch_end(self, *_: Any) -> None:
        """Stop the clock; later epochs overwrite it."""
        self.end = time.perf_counter()


@hydra.main(version_base="1.3", config_path="conf", config_name="template")
def main(config: DictConfig) -> float:
    """Train one run and write how long it took."""
    begin = time.time()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    torch.set_num_threads(config.threads)
    pl.seed_everything(config.seed, verbose=False)
    data = SeparableData(config)
    collapse = CollapseCallback(config.steps, config.points, data)
    stopwatch = Stopwatch(config.warm_up)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=config.steps,
        callbacks=[collapse, stopwatch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(MeanField(config), datamodule=data)

    folder = Path(HydraConfig.get().runtime.output_dir)
    (folder / "collapse.json").write_text(json.dumps(collapse.rows))
    late = [t for row, t in zip(collapse.rows, collapse.seconds, strict=True) if row["step"] > config.warm_up]
    timing = {
        "process": os.getpid(),
        "begin": begin,
        "seconds": time.time() - begin,
        "steps": config.steps,
        "step": (stopwatch.end - stopwatch.begin - sum(late)) / (config.steps - config.warm_up),
        "measurements": len(collapse.rows),
        "measurement": float(np.median(late)),
    }
    (folder / "timing.json").write_text(json.dumps(timing))
    return collapse.rows[-1]["nc1/test"]


if __name__ == "__main__":
    main()
