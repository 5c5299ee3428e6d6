"""Data sets that the callback measures: the Trainer's, as far as it goes through them, or those that it was given."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader, IterableDataset

from nc_sweeps.training.callback.loader import count_samples, loader_without_repeats


class DataSets:
    """Data sets by name; the first is the training set.

    Args:
        trainer: the Trainer.
        given: loaders by name, instead of the Trainer's; None: there are none.
        tell: told in one line which data sets are measured in part only.

    Attributes:
        are_complete: whether all data sets are known; the Trainer loads its validation sets when it first validates.
    """

    def __init__(
        self, trainer: pl.Trainer, given: Mapping[str, DataLoader[Any]] | None, tell: Callable[[str], None]
    ) -> None:
        self._trainer, self._tell = trainer, tell
        self._limits: dict[str, float] = {}
        self._originals: dict[str, Any] = {}
        validation = trainer.val_dataloaders
        self.are_complete = given is not None or validation is not None or not trainer.enable_validation
        if given is not None:
            self._originals |= given
            self._limits = dict.fromkeys(given, getattr(trainer, "fast_dev_run", 0) or math.inf)
            return
        self._originals["train"] = trainer.train_dataloader
        self._limits["train"] = trainer.num_training_batches
        if isinstance(validation, list | tuple):
            validation = validation[0] if len(validation) == 1 else dict(enumerate(validation))
        if isinstance(validation, Mapping):
            self._originals |= {f"val/{key}": loader for key, loader in validation.items()}
        elif validation is not None:
            self._originals["val"] = validation
        names = [name for name in self._originals if name != "train"]
        self._limits |= dict(zip(names, trainer.num_val_batches, strict=False))

    @property
    def names(self) -> list[str]:
        """Names of the data sets, the training set first."""
        return list(self._originals)

    def build(self, whole_batches: bool = False) -> dict[str, DataLoader[Any]]:
        """Return a loader of this process for each data set.

        Args:
            whole_batches: cut the samples into batches that do not depend on the number of processes.

        Raises:
            DataError: a data set does not come from one torch ``DataLoader``, or it is not known which samples it has.
        """
        rank, processes = self._trainer.global_rank, self._trainer.world_size
        return {
            name: loader_without_repeats(
                loader, rank, processes, limit=self._find_limit(name, loader), whole_batches=whole_batches
            )
            for name, loader in self._originals.items()
        }

    def _find_limit(self, name: str, loader: Any) -> int | None:
        """Return the number of batches that the Trainer takes of a data set in each process; None: all."""
        limit = self._limits.get(name, math.inf)
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset) or limit >= len(loader):
            return None
        few = count_samples(loader, int(limit), self._trainer.world_size)
        self._tell(
            f"measures {few} samples of {name}, as many as the Trainer goes through (fast_dev_run, overfit_batches or "
            "limit_…_batches)"
        )
        return int(limit)
