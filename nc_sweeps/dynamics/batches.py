"""Mini-batches: each epoch runs once through a fresh permutation of the samples; its last batch may be short."""

import torch
from jaxtyping import Int
from torch import Tensor

from nc_sweeps.counters import Stream, permutations


class MiniBatches:
    """Which samples a step takes, as a function of (seed, step).

    Args:
        seeds: of the runs.
        samples: n.
        size: samples a step.
    """

    def __init__(self, seeds: Int[Tensor, "run"], samples: int, size: int) -> None:
        self.seeds = seeds
        self.samples = samples
        self.size = size
        self._orders: dict[int, Tensor] = {}

    @property
    def steps_per_epoch(self) -> int:
        """Steps that one pass over the samples takes."""
        return -(-self.samples // self.size)

    def of(self, step: int) -> Int[Tensor, "run batch"]:
        """Samples of a step, 1 for the first."""
        epoch, position = divmod(step - 1, self.steps_per_epoch)
        return self._order(epoch)[:, position * self.size : (position + 1) * self.size]

    def along(self, first: int, last: int) -> tuple[Int[Tensor, "run samples"], int]:
        """All samples of the epochs of steps ``first + 1`` … ``last``, in order, and how many of them come before."""
        begin, position = divmod(first, self.steps_per_epoch)
        end = (last - 1) // self.steps_per_epoch
        orders = torch.cat([self._order(epoch) for epoch in range(begin, end + 1)], dim=1)
        return orders, position * self.size

    def _order(self, epoch: int) -> Int[Tensor, "run n"]:
        if epoch not in self._orders:
            # A flow goes forward: only the latest epoch will be asked for again.
            self._orders = {epoch: permutations(self.seeds, Stream.BATCHES, epoch, self.samples)}
        return self._orders[epoch]
