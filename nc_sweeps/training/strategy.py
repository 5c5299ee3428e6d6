"""Particle-parallel training as a Lightning strategy."""

from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.strategies import SingleDeviceStrategy


class ParticleParallelStrategy(SingleDeviceStrategy):
    """One network over several processes, each with a device and particles of its own.

    There is no gradient to average and no parameter to copy: every process moves its own particles, all move the same
    head, and what they must know of each other the network itself adds up (:class:`~nc_sweeps.models.shard.Shard`). So
    to Lightning each of them trains alone; only decisions are common.

    Args:
        device: of this process.
        rank: of this process; the processes' group exists already (:mod:`nc_sweeps.training.crew`).
    """

    def __init__(self, device: torch.device, rank: int) -> None:
        super().__init__(device)
        self.global_rank = rank

    @property
    def is_global_zero(self) -> bool:
        """Whether this process decides."""
        return self.global_rank == 0

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        """What one process has decided."""
        decided = [obj]
        dist.broadcast_object_list(decided, src, device=torch.device("cpu"))
        return decided[0]
