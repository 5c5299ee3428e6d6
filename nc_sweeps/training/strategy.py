"""The Lightning strategy for processes that share the particles of a network."""

from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.strategies import SingleDeviceStrategy


class ParticleParallelStrategy(SingleDeviceStrategy):
    """A strategy for one network in several processes, each with a device and particles of its own.

    There is no gradient to average and no parameter to copy: every process moves its own particles, all move the same
    head, and the network itself sums over processes (:class:`~nc_sweeps.models.shard.Shard`). So each process trains
    alone as far as Lightning can see; only decisions are made in common.

    Args:
        device: device of this process.
        rank: number of this process in the default process group, which exists already.
    """

    def __init__(self, device: torch.device, rank: int) -> None:
        super().__init__(device)
        self.global_rank = rank

    @property
    def is_global_zero(self) -> bool:
        """Whether this process makes the decisions."""
        return self.global_rank == 0

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        """Return the object of process ``src`` in all processes."""
        objects = [obj]
        dist.broadcast_object_list(objects, src, device=torch.device("cpu"))
        return objects[0]
