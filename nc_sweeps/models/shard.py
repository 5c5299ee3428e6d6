r"""Particles spread over processes: which of them are here, and means over all of them.

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
    """Particles that one process holds: a stretch of 0 … N−1. Stretches differ in length by one at most.

    Processes are those of the default process group of :mod:`torch.distributed`; a single one needs no group.

    Args:
        particles: N, in all processes together.
        rank, processes: which process, of how many.
    """

    particles: int
    rank: int = 0
    processes: int = 1

    @classmethod
    def here(cls, particles: int, processes: int) -> "Shard":
        """The shard of this process."""
        return cls(particles, dist.get_rank() if processes > 1 else 0, processes)

    @property
    def own(self) -> slice:
        """Which particles it holds."""
        first, last = (rank * self.particles // self.processes for rank in (self.rank, self.rank + 1))
        return slice(first, last)

    @property
    def indices(self) -> Int[Tensor, "own"]:
        """Numbers of its particles among all."""
        return torch.arange(self.own.start, self.own.stop)

    @property
    def whole(self) -> bool:
        """Whether it holds all particles."""
        return self.processes == 1

    def mean(self, sums: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Mean over all particles.

        Args:
            sums: over the particles held here; may be overwritten.

        Returns:
            The same bits in every process.
        """
        return self._total(sums) / self.particles

    def anywhere(self, holds: Bool[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
        """Whether something holds in any process."""
        return self._total(holds.int()) > 0

    def leading(self, Z: Float[Tensor, "run own k"], count: int) -> Float[Tensor, "run count k"]:
        """Rows of the first ``count`` particles of all, or of all if they are fewer, in every process.

        Args:
            Z: a row a particle held here.
            count: how many rows travel and are held.
        """
        count, first = min(count, self.particles), self.own.start
        Z = Z[:, : max(0, count - first)]
        if self.whole:
            return Z
        rows = Z.new_zeros(Z.shape[0], count, Z.shape[2])
        rows[:, first : first + Z.shape[1]] = Z
        return self._total(rows)

    def collected(self, Z: Float[Tensor, "own k"]) -> Float[Tensor, "rows k"]:
        """Rows of all particles in process 0, those held here in any other.

        Args:
            Z: a row a particle held here, in main memory.
        """
        if self.whole:
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
        """Sum over processes. Each element is added up in one of them, which sends it to the others."""
        if not self.whole:
            part = part.contiguous()
            dist.all_reduce(part)
        return part
