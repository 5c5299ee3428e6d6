"""Lightning's Trainer as this package uses it."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException

from nc_sweeps.config import ComputeConfig
from nc_sweeps.errors import ConfigError
from nc_sweeps.training.processes import count_threads, find_device
from nc_sweeps.training.strategy import ParticleParallelStrategy


@contextmanager
def open_trainer(compute: ComputeConfig, rank: int, callbacks: Sequence[pl.Callback]) -> Iterator[pl.Trainer]:
    """Open a Trainer for one call of ``fit``. Meanwhile torch has the CPU threads that ``compute`` grants and Lightning
    is quiet; afterwards both are as before.

    Args:
        compute: device, precision and threads.
        rank: number of this process among those that share the particles.
        callbacks: callbacks of the Trainer.

    Raises:
        ConfigError: the machine has no such accelerator.
    """
    with ExitStack() as scopes:
        scopes.enter_context(_limit_threads(count_threads(compute)))
        scopes.enter_context(_quiet_lightning())
        yield _build_trainer(compute, rank, callbacks)


def _build_trainer(compute: ComputeConfig, rank: int, callbacks: Sequence[pl.Callback]) -> pl.Trainer:
    accelerator = compute.accelerator
    if accelerator == "auto" and not torch.cuda.is_available():
        accelerator = "cpu"  # the metrics need float64, which Apple's GPUs do not have
    spread: dict[str, Any] = {}
    if compute.processes > 1:
        strategy = ParticleParallelStrategy(find_device(compute), rank)
        spread = {"strategy": strategy, "plugins": [LightningEnvironment()]}
    try:
        return pl.Trainer(
            accelerator=accelerator,
            devices=1,
            **spread,
            precision=compute.precision,  # type: ignore[arg-type]
            max_epochs=1,
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except (ValueError, ImportError, MisconfigurationException) as error:
        raise ConfigError(f"compute.accelerator={compute.accelerator}: {str(error).splitlines()[0]}") from error


@contextmanager
def _limit_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Suppress what Lightning says of hardware, and its advice on data loaders and loggers that are not in use here."""
    logger = logging.getLogger("pytorch_lightning")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
            yield
    finally:
        logger.setLevel(before)
