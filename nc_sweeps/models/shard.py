r"""Particles spread over processes: which of them a process holds, and means over all of them.

A mean-field network knows its particles through means over them alone. So a process that holds some of them, and a copy
of the head, needs nothing of the others but their sums: the samples' predictions and the head's gradient in a step, a
few moments in a measurement. None of these grows with the number of particles.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Shard:
    """Particles that one process holds: a range of 0 … N−1. Ranges differ in length by one at most.

    Processes are those of the default process group of :mod:`torch.distributed`; a single one needs no group.

    Args:
        particles: N, in all processes together.
        rank, processes: which process, of how many.
    """

    particles: int
    rank: int = 0
    processes: int = 1

    @classmethod
    def of_this_process(cls, particles: int, processes: int) -> "Shard":
        """Return the shard of the calling process."""
        return cls(particles, dist.get_rank() if processes > 1 else 0, processes)

    @property
    def own(self) -> slice:
        """The range of particles that this process holds."""
        first, last = (rank * self.particles // self.processes for rank in (self.rank, self.rank + 1))
        return slice(first, last)

    @property
    def indices(self) -> Int[Tensor, "own"]:
        """Numbers, among all particles, of those that this process holds."""
        return torch.arange(self.own.start, self.own.stop)

    @property
    def is_whole(self) -> bool:
        """Whether this process holds all particles."""
        return self.processes == 1

    def mean(self, sums: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the mean over all particles, the same bits in every process.

        Args:
            sums: sums over the particles of this process; may be overwritten.
        """
        return self._total(sums) / self.particles

    def any(self, conditions: Bool[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
        """Return which conditions hold in at least one process."""
        return self._total(conditions.int()) > 0

    def collect_leading(self, Z: Float[Tensor, "run own k"], count: int) -> Float[Tensor, "run count k"]:
        """Return the rows of the first ``count`` particles of the network, or of all if they are fewer, in every
        process.

        Args:
            Z: one row for each particle of this process.
            count: number of rows that are sent and kept.
        """
        count, first = min(count, self.particles), self.own.start
        Z = Z[:, : max(0, count - first)]
        if self.is_whole:
            return Z
        rows = Z.new_zeros(Z.shape[0], count, Z.shape[2])
        rows[:, first : first + Z.shape[1]] = Z
        return self._total(rows)

    def collect(self, Z: Float[Tensor, "own k"]) -> Float[Tensor, "rows k"]:
        """Return the rows of all particles in process 0, and in any other the rows it was given.

        Args:
            Z: one row for each particle of this process, in main memory.
        """
        if self.is_whole:
            return Z
        if self.rank > 0:
            dist.send(Z.contiguous(), dst=0)
            return Z
        rows = Z.new_empty(self.particles, Z.shape[1])
        rows[self.own] = Z
        for rank in range(1, self.processes):
            dist.recv(rows[Shard(self.particles, rank, self.processes).own], src=rank)
        return rows

    def _total(self, part: Tensor) -> Tensor:
        """Return the sum over processes. One process adds up each element and sends the sum to the others."""
        if not self.is_whole:
            part = part.contiguous()
            dist.all_reduce(part)
        return part
