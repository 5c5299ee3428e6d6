"""What each of several processes does for test_particle_parallel: a module of its own, since each must import it."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

from nc_sweeps.dynamics.flow import Flow, Hyperparameters
from nc_sweeps.dynamics.integrators import INTEGRATORS
from nc_sweeps.dynamics.schedule import Piece, Schedule
from nc_sweeps.models.activations import ACTIVATIONS
from nc_sweeps.models.mean_field import initial_ensemble


def start(particles: int, processes: int, dtype: torch.dtype = torch.float64):
    """A noisy network on 20 samples, and its flow."""
    ensemble = initial_ensemble(
        [3], particles=particles, dimension=5, features=4, classes=2, scale_u=[0.4], scale_a=[1.0], scale_w=[1.0],
        gamma=[1.0], activation=ACTIVATIONS["tanh"], dtype=dtype, processes=processes,
    )  # fmt: skip
    X = torch.linspace(-1, 1, 100, dtype=dtype).sin().reshape(1, 20, 5)
    Y = torch.eye(2, dtype=dtype).repeat(10, 1)[None]
    beta, decay = (torch.tensor([x], dtype=torch.float64) for x in (40.0, 0.05))
    hyperparameters = Hyperparameters(torch.tensor([3]), beta, decay, decay, (Schedule((Piece(0, 1000, 0.2),), 1),))
    return ensemble, X, Y, Flow(INTEGRATORS["exponential"], hyperparameters, None, torch.zeros(1, dtype=torch.int64))


def sent(particles: int, processes: int, steps: int) -> int:
    """Bytes of all tensors that this process hands to torch.distributed in a stretch of so many steps."""
    ensemble, X, Y, flow = start(particles, processes, torch.float32)
    flow.begin(ensemble)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
        flow.advance(ensemble, X, Y, 0, steps)
    calls = [event for event in recorded.events() if event.name.startswith("gloo:")]
    assert len(calls) >= 2 * steps
    return sum(4 * torch.Size(shape).numel() for event in calls for shape in event.input_shapes if shape)


def one_of_several(rank: int, processes: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes)
    ensemble, X, Y, flow = start(11, processes)
    flow.advance(ensemble, X, Y, 0, 500)
    shard = ensemble.shard
    found = {
        "W": ensemble.W.data,
        "U": ensemble.U.data,
        "leading": shard.leading(ensemble.U.data, 6),
        "all": shard.leading(ensemble.U.data, 100),
        "collected": shard.collected(ensemble.U.data[0]),
        "anywhere": shard.anywhere(torch.tensor([rank == 1, False])),
        "sent": [sent(N, processes, 3) - sent(N, processes, 1) for N in (1_000, 100_000)],
    }
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()
