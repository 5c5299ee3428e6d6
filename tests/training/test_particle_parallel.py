"""Particles spread over processes: the same numbers, whatever the processes; a step sends nothing of the size of N."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest
import torch
import torch.multiprocessing as mp
from polars.testing import assert_frame_equal
from safetensors.torch import load_file

from nc_sweeps.config import signature
from nc_sweeps.errors import ConfigError
from nc_sweeps.models.shard import Shard
from nc_sweeps.pack import Job, train_pack
from nc_sweeps.tracking.store import RunStore, read_metrics, read_summary
from tests.conftest import TINY, tiny
from tests.training.spread import one_of_several, start
from tests.training.test_statements import SMALL_STAGE_ONE

NOISY = ("dynamics=noisy_gradient_flow", "dynamics.beta=40", "dynamics.horizon=500", "width.particles=31")
DOUBLE = "compute.precision=64-true"
#: By what they exercise; 31 particles cannot be spread evenly over 2 or 4 processes.
RUNS = {
    "single precision": (*NOISY, "metrics.points=9"),
    "double precision": (*NOISY, DOUBLE, "dynamics.horizon=100"),
    "law that follows the head": (*NOISY, DOUBLE, "dynamics.horizon=100", "seed=1", "dynamics.lambda_w=0.3"),
    "no kernels": (*NOISY, DOUBLE, "model.activation=erf", "dynamics.horizon=50"),
    "batches": ("dynamics=noisy_sgd", "dynamics.batch_size=7", "dynamics.beta=40", "dynamics.horizon_unit=steps",
                "model.truncation=3", DOUBLE, "dynamics.horizon=50"),
    "stages": (*SMALL_STAGE_ONE, "width.particles=31", "dynamics.horizon=60", "dynamics.stage_one=50",
               "dynamics.stage_one_distance=4"),
    "diverges": ("dynamics.step_size=1e6", "model.activation=relu"),
    "resumed": (*NOISY, "seed=2", "compute.checkpoint_seconds=0"),
}  # fmt: skip
#: What runs with so many processes; more of them than cores are slow.
SPREAD = {2: tuple(RUNS), 4: ("resumed",)}
CASES = [(name, devices) for devices, names in SPREAD.items() for name in names]


class StoppedError(Exception):
    pass


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> dict[tuple[str, int], Path]:
    """The directories of runs by name and number of processes. The last run is stopped with 2 and goes on with 4."""
    folder = tmp_path_factory.mktemp("results")

    def jobs(devices: int, names: Sequence[str]) -> list[Job]:
        configs = [tiny(*RUNS[name], f"compute.devices={devices}") for name in names]
        return [Job(config, [], directories[name, devices]) for name, config in zip(names, configs, strict=True)]

    directories = {(name, devices): folder / f"{devices}" / name for name, devices in [(n, 1) for n in RUNS] + CASES}
    resumed = directories["resumed", 2] = directories["resumed", 4]
    save = RunStore.save

    def save_and_stop(store, state, step):
        save(store, state, step)
        if store.directory == resumed and step >= 40:
            raise StoppedError

    train_pack(jobs(1, list(RUNS)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunStore, "save", save_and_stop)
        with pytest.raises(StoppedError):
            train_pack(jobs(2, SPREAD[2]))
    assert read_summary(resumed)["status"] == "running"
    train_pack(jobs(4, SPREAD[4]))
    return directories


def numbers(directory: Path) -> pl.DataFrame:
    return read_metrics(directory).drop("seconds")


@pytest.mark.parametrize(("name", "devices"), [case for case in CASES if case[0] != "diverges"])
def test_every_metric_is_that_of_one_process(stores, name, devices):
    one, several = (stores[name, number] for number in (1, devices))
    assert read_summary(several)["status"] == "completed"
    # Sums are added in another order, in 53 or 24 bits, over steps that contract; metrics of order 1e-3 and less are
    # differences of numbers of order 1.
    tolerance = (
        {"rel_tol": 1e-5, "abs_tol": 1e-9}
        if name in {"single precision", "resumed"}
        else {"rel_tol": 1e-12, "abs_tol": 1e-14}
    )
    assert_frame_equal(numbers(several), numbers(one), **tolerance)


def test_stage_one_ends_in_all_processes_at_once(stores):
    starts = [load_file(stores["stages", devices] / "checkpoint.safetensors")["head_start"] for devices in (1, 2)]
    assert 0 < int(starts[0]) < 50
    assert starts[0] == starts[1]


def test_a_diverged_run_is_closed_as_with_one_process(stores):
    one, several = (read_summary(stores["diverges", devices]) for devices in (1, 2))
    assert several["status"] == "diverged"
    assert several["reason"] == one["reason"]


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> list[dict[str, torch.Tensor]]:
    """What two processes found, which hold 5 and 6 of 11 particles."""
    folder = tmp_path_factory.mktemp("several")
    mp.spawn(one_of_several, (2, folder), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_all_processes_have_the_same_head_to_the_bit_and_particles_of_their_own(several):
    alone, X, Y, flow = start(11, 1)
    flow.advance(alone, X, Y, 0, 500)
    for found in several:
        assert torch.equal(found["W"], several[0]["W"])
    torch.testing.assert_close(several[0]["W"], alone.W.data, rtol=1e-12, atol=1e-14)
    U = torch.cat([found["U"] for found in several], dim=1)
    assert [found["U"].shape[1] for found in several] == [5, 6]
    torch.testing.assert_close(U, alone.U.data, rtol=1e-12, atol=1e-14)
    for found in several:
        assert torch.equal(found["leading"], U[:, :6])
        assert torch.equal(found["all"], U)
        assert found["anywhere"].tolist() == [True, False]
    assert torch.equal(several[0]["collected"], U[0])


def test_a_step_sends_predictions_and_a_gradient_of_the_head_however_many_particles_there_are(several):
    n, p, q = 20, 4, 2
    for found in several:
        assert found["sent"] == 2 * [2 * 4 * (n * q + p * q)]


@pytest.mark.parametrize(("particles", "processes"), [(7, 1), (7, 7), (10, 3), (1_000_003, 16)])
def test_every_particle_lies_in_one_process(particles, processes):
    shards = [Shard(particles, rank, processes) for rank in range(processes)]
    assert torch.equal(torch.cat([shard.indices for shard in shards]), torch.arange(particles))
    lengths = [len(shard.indices) for shard in shards]
    assert max(lengths) - min(lengths) <= 1


def test_processes_that_torchrun_started_do_and_say_nothing_twice(stores, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "nc_sweeps"]
    command += ["-m", *TINY, *RUNS["batches"], "compute.devices=2", "seed=0,1", "hydra/launcher=packed"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("results: results/") == 1
    assert done.stderr.count("2/2 runs trained") == 1
    sweep = tmp_path / "results" / "sweep"
    manifest = json.loads((sweep / "manifest.json").read_text())
    assert len(manifest["invocations"]) == 1
    assert len(manifest["runs"]) == 2
    first = sweep / signature(tiny(*RUNS["batches"]))
    assert_frame_equal(numbers(first), numbers(stores["batches", 1]), rel_tol=1e-12, abs_tol=1e-14)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["compute.nodes=2"], "compute.nodes=2: start nc-train on every node, by srun or torchrun"),
        (["compute.devices=2", "compute.accelerator=mps"], "compute.accelerator=mps: there is none over which"),
    ],
)
def test_processes_that_cannot_be_had_are_refused(tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message):
        train_pack([Job(tiny(*overrides), [], tmp_path / "run")])
    assert os.listdir(tmp_path) == []


def test_runs_of_one_process_are_spread_alike(tmp_path):
    different = [Job(tiny(f"compute.devices={count}"), [], tmp_path / str(count)) for count in (1, 2)]
    with pytest.raises(ConfigError, match="must be the same for all runs"):
        train_pack(different)
