"""A loader that gives every sample of a data set once, even if another one repeats, drops or pads samples."""

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

#: Samplers of torch that draw from the whole data set.
_WHOLE_SET_SAMPLERS = {DistributedSampler, RandomSampler, SequentialSampler, WeightedRandomSampler}


def loader_without_repeats(loader: object, process: int, processes: int) -> DataLoader[Any]:
    """Return a loader for one of several processes, which together see every sample of the data set once.

    Batches have nearly equal sizes, at most that of the original loader. They always mix the samples in the same way,
    so that values that depend on which samples share a batch (BatchNorm in training mode) can be compared over time.
    The original loader is not touched, nor are its workers, its generator or the state of its sampler. The samples of a
    stream (``IterableDataset``) are taken as they come.

    Args:
        loader: a torch ``DataLoader`` with one of torch's samplers.
        process: number of this process.
        processes: number of processes.

    Raises:
        DataError: the loader is something else.
    """
    if not isinstance(loader, DataLoader):
        raise DataError(f"data of type {type(loader).__name__}: expected one torch DataLoader for each set of samples")
    options: dict[str, Any] = {
        "collate_fn": loader.collate_fn,
        "num_workers": loader.num_workers,
        "pin_memory": loader.pin_memory,
        "timeout": loader.timeout,
        "worker_init_fn": loader.worker_init_fn,
        "multiprocessing_context": loader.multiprocessing_context,
    }
    if isinstance(loader.dataset, IterableDataset):
        return DataLoader(loader.dataset, batch_size=loader.batch_size, **options)
    samples = _find_samples(loader)
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
    own = samples[order[process::processes]]
    if loader.batch_sampler is None:  # the data set makes the batches
        return DataLoader(loader.dataset, batch_size=None, sampler=own.tolist(), **options)
    assert loader.batch_size is not None
    batches = own.tensor_split(math.ceil(len(own) / loader.batch_size)) if len(own) else ()
    return DataLoader(loader.dataset, batch_sampler=[batch.tolist() for batch in batches], **options)


def _find_samples(loader: DataLoader[Any]) -> torch.Tensor:
    """Return the indices of the samples from which a loader draws."""
    sampler: Any = loader.sampler
    if isinstance(sampler, DistributedSamplerWrapper):  # with which Lightning spreads a sampler over processes
        sampler = sampler.dataset._sampler  # type: ignore[attr-defined]
    kind: type[Any] = type(sampler)
    if loader.batch_sampler is not None and type(loader.batch_sampler) is not BatchSampler:
        kind = type(loader.batch_sampler)
    if kind is SubsetRandomSampler:
        return torch.as_tensor(sampler.indices)
    if kind not in _WHOLE_SET_SAMPLERS:
        raise DataError(
            f"data drawn by a {kind.__name__}: which samples there are is unknown; give a loader without it as "
            "NeuralCollapseCallback(loaders=…)"
        )
    return torch.arange(len(loader.dataset))  # type: ignore[arg-type]
