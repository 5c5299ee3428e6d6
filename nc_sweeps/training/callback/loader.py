"""Every sample of a data set once, whatever a loader does to order, repeat, drop or pad them."""

import math
from typing import Any

import torch
from lightning_fabric.utilities.distributed import DistributedSamplerWrapper
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from nc_sweeps.errors import DataError

#: They draw from the whole data set.
_OF_ALL = {DistributedSampler, RandomSampler, SequentialSampler, WeightedRandomSampler}


def loader_without_repeats(loader: object, process: int, processes: int) -> DataLoader[Any]:
    """A loader of its own for one process of several, which together see every sample of the data set once.

    Batches are of nearly equal size, at most that of the given loader, and mix the samples always in the same way, so
    that values that depend on who is in a batch with whom (BatchNorm in training mode) can be compared over time. The
    given loader is left as it is: its workers, its generator and the state of its sampler. A stream
    (``IterableDataset``) is taken as it comes.

    Args:
        loader: a torch ``DataLoader``, with one of torch's samplers.
        process: number of this process.
        processes: how many there are.

    Raises:
        DataError: it is something else.
    """
    if not isinstance(loader, DataLoader):
        raise DataError(f"data of type {type(loader).__name__}: expected one torch DataLoader for each set of samples")
    like: dict[str, Any] = {
        "collate_fn": loader.collate_fn,
        "num_workers": loader.num_workers,
        "pin_memory": loader.pin_memory,
        "timeout": loader.timeout,
        "worker_init_fn": loader.worker_init_fn,
        "multiprocessing_context": loader.multiprocessing_context,
    }
    if isinstance(loader.dataset, IterableDataset):
        return DataLoader(loader.dataset, batch_size=loader.batch_size, **like)
    samples = _samples(loader)
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
    own = samples[order[process::processes]]
    if loader.batch_sampler is None:  # the data set makes the batches
        return DataLoader(loader.dataset, batch_size=None, sampler=own.tolist(), **like)
    assert loader.batch_size is not None
    batches = own.tensor_split(math.ceil(len(own) / loader.batch_size)) if len(own) else ()
    return DataLoader(loader.dataset, batch_sampler=[batch.tolist() for batch in batches], **like)


def _samples(loader: DataLoader[Any]) -> torch.Tensor:
    """Indices of the samples from which a loader draws."""
    sampler: Any = loader.sampler
    if isinstance(sampler, DistributedSamplerWrapper):  # by which Lightning spreads a sampler over processes
        sampler = sampler.dataset._sampler  # type: ignore[attr-defined]
    kind: type[Any] = type(sampler)
    if loader.batch_sampler is not None and type(loader.batch_sampler) is not BatchSampler:
        kind = type(loader.batch_sampler)
    if kind is SubsetRandomSampler:
        return torch.as_tensor(sampler.indices)
    if kind not in _OF_ALL:
        raise DataError(
            f"data drawn by a {kind.__name__}: which samples there are is unknown; give a loader without it as "
            "NeuralCollapseCallback(loaders=…)"
        )
    return torch.arange(len(loader.dataset))  # type: ignore[arg-type]
