"""A loader that gives every sample of a data set once, even if another one repeats, drops or pads samples."""

import math
from typing import Any

import torch
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
from nc_sweeps.training.batch_norm import mix_into_batches

#: Samplers of torch that draw from the whole data set.
_WHOLE_SET_SAMPLERS = {DistributedSampler, RandomSampler, SequentialSampler, WeightedRandomSampler}


def loader_without_repeats(
    loader: object, process: int, processes: int, *, limit: int | None = None, whole_batches: bool = False
) -> DataLoader[Any]:
    """Return a loader for one of several processes, which together see every sample of the data set once.

    Batches have nearly equal sizes, at most that of the original loader. They always mix the samples in the same way,
    so that values that depend on which samples share a batch (BatchNorm in training mode) can be compared over time.
    The original loader is not touched, nor are its workers, its generator or the state of its sampler. The samples of a
    stream (``IterableDataset``) are taken as they come.

    Args:
        loader: a torch ``DataLoader`` with one of torch's samplers.
        process: number of this process.
        processes: number of processes.
        limit: number of batches of the original loader in each process, whose number of samples is taken: the first
            ones, or if the loader draws them by chance, always the same ones. None: all samples. A stream has no limit.
        whole_batches: cut the samples into batches that do not depend on the number of processes, instead of giving
            each process as many samples. No batch has a single sample then, if the original ones have more.

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
    if limit is not None:
        if _draws_by_chance(loader):
            samples = samples[torch.randperm(len(samples), generator=_fix_chance())]
        samples = samples[: limit * processes * (loader.batch_size or 1)]
    if whole_batches and loader.batch_size is not None:
        mixed = mix_into_batches(len(samples), loader.batch_size)[process::processes]
        return DataLoader(loader.dataset, batch_sampler=[samples[batch].tolist() for batch in mixed], **options)
    order = torch.randperm(len(samples), generator=_fix_chance())
    own = samples[order[process::processes]]
    if loader.batch_sampler is None:  # the data set makes the batches
        return DataLoader(loader.dataset, batch_size=None, sampler=own.tolist(), **options)
    assert loader.batch_size is not None
    batches = own.tensor_split(math.ceil(len(own) / loader.batch_size)) if len(own) else ()
    return DataLoader(loader.dataset, batch_sampler=[batch.tolist() for batch in batches], **options)


def _fix_chance() -> torch.Generator:
    """Return a generator that always gives the same numbers."""
    return torch.Generator().manual_seed(0)


def _unwrap_sampler(loader: DataLoader[Any]) -> Any:
    """Return the sampler of a loader, without what spreads it over processes."""
    sampler: Any = loader.sampler
    # Lightning's wrapper of a sampler is one class in pytorch_lightning and another one in lightning.
    is_wrapped = type(sampler).__name__ == "DistributedSamplerWrapper"
    return sampler.dataset._sampler if is_wrapped else sampler


def _draws_by_chance(loader: DataLoader[Any]) -> bool:
    """Return whether a loader draws other samples, or in another order, in every epoch."""
    sampler = _unwrap_sampler(loader)
    return bool(sampler.shuffle) if isinstance(sampler, DistributedSampler) else type(sampler) is not SequentialSampler


def _find_samples(loader: DataLoader[Any]) -> torch.Tensor:
    """Return the indices of the samples from which a loader draws.

    Raises:
        DataError: its sampler does not say.
    """
    sampler = _unwrap_sampler(loader)
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


def count_samples(loader: DataLoader[Any], batches: int, processes: int) -> int:
    """Return the number of samples in some batches of a loader in each of several processes."""
    return min(len(_find_samples(loader)), batches * processes * (loader.batch_size or 1))
