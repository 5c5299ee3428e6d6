"""Mini-batches: each epoch takes the samples once, in a fresh random order; its last batch may be short."""

import torch
from jaxtyping import Int
from torch import Tensor

from nc_sweeps.counters import Stream, permutations


class MiniBatches:
    """Samples of each step, a function of (seed, step).

    Args:
        seeds: seeds of the runs.
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
        """Number of steps that take each sample once."""
        return -(-self.samples // self.size)

    def of(self, step: int) -> Int[Tensor, "run batch"]:
        """Return the samples of a step; the first step has number 1."""
        epoch, position = divmod(step - 1, self.steps_per_epoch)
        return self._order(epoch)[:, position * self.size : (position + 1) * self.size]

    def along(self, first: int, last: int) -> tuple[Int[Tensor, "run samples"], int]:
        """Return all samples of the epochs of steps ``first + 1`` … ``last``, in order, and the number of those that
        come before step ``first + 1``.
        """
        begin, position = divmod(first, self.steps_per_epoch)
        end = (last - 1) // self.steps_per_epoch
        orders = torch.cat([self._order(epoch) for epoch in range(begin, end + 1)], dim=1)
        return orders, position * self.size

    def _order(self, epoch: int) -> Int[Tensor, "run n"]:
        if epoch not in self._orders:
            # A flow goes forward: only the latest epoch will be asked for again.
            self._orders = {epoch: permutations(self.seeds, Stream.BATCHES, epoch, self.samples)}
        return self._orders[epoch]
