"""A Lightning module such as others write, its data, and the work of each process that torchrun starts for
test_neural_collapse.
"""

import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset


class ConvNet(pl.LightningModule):
    def __init__(self, loss="mse", dropout=0.2, momentum=0.9):
        super().__init__()
        self.loss, self.momentum = loss, momentum
        self.conv = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout))
        self.hidden = nn.Linear(64, 5)
        self.fc = nn.Linear(5, 3)

    def forward(self, x):
        return self.fc(self.hidden(self.conv(x)))

    def training_step(self, batch, batch_idx):
        x, y = batch
        if self.loss == "mse":
            return nn.functional.mse_loss(self(x), nn.functional.one_hot(y, 3).to(x.dtype))
        return nn.functional.cross_entropy(self(x), y)

    def validation_step(self, batch, batch_idx):
        self.log("accuracy", (self(batch[0]).argmax(dim=1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=self.momentum)


def data(n, seed):
    """Return a data set with unbalanced classes that can be told apart."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(n, generator=generator, dtype=torch.float64) * 3).pow(0.7).long()
    patterns = torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = patterns[labels] + 0.7 * torch.randn(n, 1, 6, 6, generator=generator, dtype=torch.float64)
    return TensorDataset(x, labels)


#: Data sets of odd sizes, which two processes cannot share evenly.
TRAIN, VALIDATION = data(45, 1), data(31, 2)
#: The only samples of the validation set that are used.
HELD_OUT = list(range(0, 31, 3))


def loaders(batch_size=8):
    return (
        DataLoader(TRAIN, batch_size=batch_size, shuffle=True, drop_last=True),
        DataLoader(VALIDATION, batch_size=batch_size, sampler=SubsetRandomSampler(HELD_OUT)),
    )


def train(module, *callbacks, epochs=2, batch_size=8, seed=0, **options):
    """Train a module in double precision."""
    pl.seed_everything(seed, verbose=False)
    module = module.double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    options = {"logger": False, "devices": 1, "precision": "64-true", "enable_checkpointing": False} | options
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, *loaders(batch_size))
    return trainer


def _run_process(folder):
    from nc_sweeps import NeuralCollapseCallback

    torch.set_num_threads(1)
    callback = NeuralCollapseCallback("mse")
    module = ConvNet()
    trainer = train(module, callback, devices=2, strategy="ddp")
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    torch.save((callback.values, logged, module.state_dict()), folder / f"{trainer.global_rank}.pt")


if __name__ == "__main__":
    _run_process(Path(sys.argv[1]))
