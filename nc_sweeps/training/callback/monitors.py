"""Callbacks and schedulers of a Trainer that go by a value, and the moments at which they look at it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl


@dataclass(frozen=True)
class Monitor:
    """A callback or scheduler that goes by a value.

    Args:
        owner: what it is, for messages.
        value: name of the value.
        every: number of epochs from one look to the next.
        after_validation: whether it looks at the end of a validation, and not at that of an epoch.
        within_epochs: whether it looks after a number of steps or seconds.
        waits: whether it does without the value where there is none (``strict=False``).
    """

    owner: str
    value: str
    every: int = 1
    after_validation: bool = False
    within_epochs: bool = False
    waits: bool = False


def find_monitors(trainer: pl.Trainer) -> Iterator[Monitor]:
    """Yield what goes by a value: ModelCheckpoint, EarlyStopping and their like, and ReduceLROnPlateau."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        value = getattr(callback, "monitor", None)
        if isinstance(value, str):
            steps, seconds = (
                getattr(callback, f"_{key}", None) for key in ("every_n_train_steps", "train_time_interval")
            )
            yield Monitor(
                type(callback).__name__,
                value,
                getattr(callback, "_every_n_epochs", 1) or 1,
                not _looks_after_epochs(callback, trainer),
                bool(steps or seconds),
                not getattr(callback, "strict", True),
            )
    for scheduler in trainer.lr_scheduler_configs:
        if scheduler.reduce_on_plateau and isinstance(scheduler.monitor, str):
            owner = type(scheduler.scheduler).__name__
            is_stepwise = scheduler.interval == "step"
            yield Monitor(
                owner, scheduler.monitor, scheduler.frequency, within_epochs=is_stepwise, waits=not scheduler.strict
            )


def _looks_after_epochs(callback: Any, trainer: pl.Trainer) -> bool:
    decide = getattr(callback, "_should_save_on_train_epoch_end", None)  # of ModelCheckpoint
    looks = decide(trainer) if decide else getattr(callback, "_check_on_train_epoch_end", True)  # of EarlyStopping
    return bool(looks)


def name_without_slashes(name: str) -> str:
    """Return the name of a value for file names, in which a slash would make a folder."""
    return name.replace("/", "_")
