"""The work of each process that torchrun starts for test_particle_parallel."""

import os
import shutil
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

from nc_sweeps.activations import ACTIVATIONS
from nc_sweeps.dynamics.flow import Flow, Hyperparameters
from nc_sweeps.dynamics.integrators import INTEGRATORS
from nc_sweeps.dynamics.schedule import Piece, Schedule
from nc_sweeps.models.mean_field import initialise_networks
from nc_sweeps.pack import Pack
from nc_sweeps.run_spec import RunSpec
from nc_sweeps.store.runs import RunStore
from nc_sweeps.train import main
from tests.configs import SMALL_STAGE_ONE, TINY, tiny
from tests.doubles import SilentListener

NOISY = ("dynamics=noisy_gradient_flow", "dynamics.beta=40", "width.particles=31", "metrics.points=4")
DOUBLE = "compute.precision=64-true"
#: Runs by what they exercise. 31 or 7 particles cannot be spread evenly over 2 or 4 processes.
RUNS = {
    "single precision": (*NOISY, "dynamics.horizon=500"),
    "law that follows the head": (*NOISY, DOUBLE, "dynamics.horizon=50", "dynamics.lambda_w=0.3"),
    "no kernels": (*NOISY, DOUBLE, "model.activation=erf", "dynamics.horizon=20"),
    "batches": ("dynamics=noisy_sgd", "dynamics.batch_size=7", "dynamics.beta=40", "dynamics.horizon_unit=steps",
                "model.truncation=3", DOUBLE, "dynamics.horizon=30", "width.particles=7"),
    "stages": (*SMALL_STAGE_ONE, "width.particles=31", "dynamics.horizon=60", "dynamics.stage_one=50",
               "dynamics.stage_one_distance=4", "metrics.points=4"),
    "diverges": ("dynamics.step_size=1e6", "model.activation=relu"),
}  # fmt: skip
#: Folder with a copy of the first run, made when it had a checkpoint on the way, as if its process had been killed.
STOPPED = "stopped"
#: The run that the command itself trains.
BY_COMMAND = "batches"


def make_spec(name: str, devices: int, directory: Path, *overrides: str) -> RunSpec:
    """Return the specification of one of the runs, spread over ``devices`` processes."""
    return RunSpec(tiny(*RUNS[name], f"compute.devices={devices}", *overrides), [], directory)


def make_flow(particles: int, processes: int, dtype: torch.dtype = torch.float64):
    """Return a noisy network, 20 samples, and a flow that moves the network."""
    networks = initialise_networks(
        [3], particles=particles, dimension=5, features=4, classes=2, scale_u=[0.4], scale_a=[1.0], scale_w=[1.0],
        gamma=[1.0], activation=ACTIVATIONS["tanh"], dtype=dtype, processes=processes,
    )  # fmt: skip
    X = torch.linspace(-1, 1, 100, dtype=dtype).sin().reshape(1, 20, 5)
    Y = torch.eye(2, dtype=dtype).repeat(10, 1)[None]
    beta, decay = (torch.tensor([x], dtype=torch.float64) for x in (40.0, 0.05))
    hyperparameters = Hyperparameters(torch.tensor([3]), beta, decay, decay, (Schedule((Piece(0, 1000, 0.2),), 1),))
    flow = Flow(networks, INTEGRATORS["exponential"], hyperparameters, None, torch.zeros(1, dtype=torch.int64))
    return networks, X, Y, flow


def count_sent_bytes(particles: int, processes: int, steps: int) -> int:
    """Return the bytes of all tensors that this process gives to torch.distributed in a stretch of ``steps`` steps."""
    _, X, Y, flow = make_flow(particles, processes, torch.float32)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
        flow.advance(X, Y, 0, steps)
    calls = [event for event in recorded.events() if event.name.startswith("gloo:")]
    assert len(calls) >= 2 * steps
    return sum(4 * torch.Size(shape).numel() for event in calls for shape in event.input_shapes if shape)


def move_network(rank: int, processes: int) -> dict[str, object]:
    """Move a network without Lightning, and return what this process then has and how much it sent."""
    networks, X, Y, flow = make_flow(11, processes)
    flow.advance(X, Y, 0, 100)
    shard = networks.shard
    return {
        "W": networks.W.data,
        "U": networks.U.data,
        "leading": shard.collect_leading(networks.U.data, 6),
        "all": shard.collect_leading(networks.U.data, 100),
        "collected": shard.collect(networks.U.data[0]),
        "anywhere": shard.any(torch.tensor([rank == 1, False])),
        "sent": [count_sent_bytes(N, processes, 3) - count_sent_bytes(N, processes, 1) for N in (1_000, 100_000)],
    }


def _run_process(folder: Path) -> None:
    torch.set_num_threads(1)
    save = RunStore.save

    def save_and_copy(store: RunStore, state: dict[str, torch.Tensor], step: int) -> None:
        save(store, state, step)
        if step >= 40 and store.directory.name == "single precision" and not (folder / STOPPED).exists():
            shutil.copytree(store.directory, folder / STOPPED)

    RunStore.save = save_and_copy  # type: ignore[method-assign]
    specs = [make_spec(name, 2, folder / name, "compute.checkpoint_seconds=0") for name in RUNS if name != BY_COMMAND]
    Pack(specs).train(SilentListener())
    rank = dist.get_rank()
    torch.save(move_network(rank, 2), folder / f"{rank}.pt")
    os.chdir(folder)
    sys.argv = ["nc-train", "-m", *TINY, *RUNS[BY_COMMAND], "compute.devices=2", "seed=0"]
    main()


if __name__ == "__main__":
    _run_process(Path(sys.argv[1]))
