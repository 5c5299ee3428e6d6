"""Processes that share the particles of an ensemble: who started them, which one leads, and the device of each.

Importing this module does not import torch.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nc_sweeps.config import ComputeConfig
from nc_sweeps.errors import ConfigError
from nc_sweeps.process import count_cores

if TYPE_CHECKING:
    import torch
    from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment


def is_leader(processes: int) -> bool:
    """Tell whether this process is the first of the ``processes`` that share particles."""
    cluster = find_cluster() if processes > 1 else None
    return cluster is None or cluster.global_rank() == 0


def was_started_with_others() -> bool:
    """Tell whether srun or torchrun started this process together with others."""
    return find_cluster() is not None


def find_cluster() -> "ClusterEnvironment | None":
    """Return what srun or torchrun says of the processes that it started; None if this process was started alone.

    Raises:
        ConfigError: srun does not say how many tasks each node has.
    """
    by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    if not by_torchrun and not _was_started_by_srun():
        return None
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    try:
        return TorchElasticEnvironment() if by_torchrun else SLURMEnvironment(auto_requeue=False)
    except RuntimeError as error:  # tasks were not asked for by node
        raise ConfigError(f"srun: {str(error).splitlines()[0]}") from error


def count_threads(compute: ComputeConfig) -> int:
    """Return the number of CPU threads of this process: ``compute.threads``, or an equal share of its cores."""
    # srun gives every process cores of its own; other processes of this machine share all of them.
    sharing = 1 if _was_started_by_srun() else compute.devices
    return compute.threads or max(1, count_cores() // sharing)


def check_accelerator(compute: ComputeConfig) -> None:
    """Refuse a GPU that is not there, before torch is imported to look for it.

    Raises:
        ConfigError: no driver of a GPU has a device file on this machine, which runs Linux.
    """
    is_wanted = compute.accelerator in {"gpu", "cuda"} and sys.platform == "linux"
    # Of NVIDIA, on a board or in the processor, of AMD, and under Windows.
    drivers = ("nvidia[0-9]*", "nvhost*", "kfd", "dxg")
    if is_wanted and not any(any(Path("/dev").glob(driver)) for driver in drivers):
        raise ConfigError(
            f"compute.accelerator={compute.accelerator}: this machine has no GPU; auto takes what there is"
        )


def find_device(compute: ComputeConfig) -> "torch.device":
    """Return the device of this process.

    Raises:
        ConfigError: the machine has too few devices, or particles cannot be spread over devices of this kind.
    """
    import torch
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment

    kind, visible = compute.accelerator, torch.cuda.device_count()
    if kind not in {"auto", "cpu", "gpu", "cuda"} or (kind in {"gpu", "cuda"} and not visible):
        raise ConfigError(f"compute.accelerator={kind}: there is none over which particles can be spread")
    if kind == "cpu" or not visible:
        return torch.device("cpu")
    cluster = find_cluster()
    if cluster is None and visible < compute.devices:
        raise ConfigError(f"compute.devices={compute.devices}: this machine has {visible}")
    # A launcher may show every process its own device alone.
    return torch.device("cuda", (cluster or LightningEnvironment()).local_rank() % visible)


def _was_started_by_srun() -> bool:
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1
