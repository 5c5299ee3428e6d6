"""Particles spread over processes: the same numbers, whatever the processes; a step sends nothing of the size of N."""

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from safetensors.torch import load_file

from nc_sweeps.config import compute_signature
from nc_sweeps.errors import ConfigError
from nc_sweeps.models.shard import Shard
from nc_sweeps.pack import Pack
from nc_sweeps.run_spec import RunSpec
from nc_sweeps.store.run_folder import RunFolder
from nc_sweeps.store.sweep_folder import SweepFolder
from tests.configs import tiny
from tests.doubles import SilentListener
from tests.processes import PATIENCE
from tests.training.spread import BY_COMMAND, RUNS, STOPPED, make_flow, make_spec

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """Return the folder of runs that one process trained."""
    folder = tmp_path_factory.mktemp("alone")
    Pack([make_spec(name, 1, folder / name) for name in RUNS]).train(SilentListener())
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Return the folder that two processes of torchrun left behind, and what they printed."""
    folder = tmp_path_factory.mktemp("pair")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "tests.training.spread", str(folder)]
    return folder, subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.fixture(scope="module")
def four(pair) -> Path:
    """Return the folder of a run that two processes began and four others, started by their leader, ended."""
    directory = pair[0] / STOPPED
    assert RunFolder(directory).read_summary().status == "running"
    begun = RunFolder(directory).read_metrics()
    Pack([make_spec("single precision", 4, directory)]).train(SilentListener())
    assert_frame_equal(RunFolder(directory).read_metrics()[: len(begun)], begun)
    return directory


def numbers(directory: Path) -> pl.DataFrame:
    return RunFolder(directory).read_metrics().drop("seconds")


@pytest.mark.parametrize("name", [name for name in RUNS if name not in {"single precision", "diverges", BY_COMMAND}])
def test_every_metric_is_that_of_one_process(alone, pair, name):
    assert RunFolder(pair[0] / name).read_summary().status == "completed"
    # Sums are added in another order, in 53 bits, over steps that contract.
    assert_frame_equal(numbers(pair[0] / name), numbers(alone / name), rel_tol=1e-12, abs_tol=1e-14)


def test_every_metric_is_that_of_one_process_in_single_precision_after_500_steps_of_two_or_four(alone, pair, four):
    for directory in (pair[0] / "single precision", four):
        assert RunFolder(directory).read_summary().status == "completed"
        found = numbers(directory)
        assert found["step"][-1] == 500
        # In 24 bits. Metrics of order 1e-3 and less are differences of numbers of order 1.
        assert_frame_equal(found, numbers(alone / "single precision"), rel_tol=1e-5, abs_tol=1e-9)


def test_no_more_particles_than_dimensions_have_no_gaussian_bound(alone):
    frame = numbers(alone / BY_COMMAND)
    assert frame["free_energy/gaussian_bound"].is_nan().all()
    assert frame["free_energy/isotropic_bound"].is_finite().all()


def test_stage_one_ends_in_all_processes_at_once(alone, pair):
    starts = [load_file(folder / "stages" / "checkpoint.safetensors")["head_start"] for folder in (alone, pair[0])]
    assert 0 < int(starts[0]) < 50
    assert starts[0] == starts[1]


def test_a_diverged_run_is_closed_as_with_one_process(alone, pair):
    one, several = (RunFolder(folder / "diverges").read_summary() for folder in (alone, pair[0]))
    assert several.status == "diverged"
    assert several.reason == one.reason


@pytest.fixture
def several(pair) -> list[dict[str, torch.Tensor]]:
    """Return what two processes found that hold 5 and 6 of 11 particles."""
    return [torch.load(pair[0] / f"{rank}.pt") for rank in range(2)]


def test_all_processes_have_the_same_head_to_the_bit_and_particles_of_their_own(several):
    whole, X, Y, flow = make_flow(11, 1)
    flow.advance(X, Y, 0, 100)
    for found in several:
        assert torch.equal(found["W"], several[0]["W"])
    torch.testing.assert_close(several[0]["W"], whole.W.data, rtol=1e-12, atol=1e-14)
    U = torch.cat([found["U"] for found in several], dim=1)
    assert [found["U"].shape[1] for found in several] == [5, 6]
    torch.testing.assert_close(U, whole.U.data, rtol=1e-12, atol=1e-14)
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


def test_processes_that_torchrun_started_do_and_say_nothing_twice(alone, pair):
    folder, done = pair
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("results: results/") == 1
    assert done.stderr.count("1/1 runs trained") == 1
    sweep = folder / "results" / "sweep"
    assert len(SweepFolder(sweep).read_invocations()) == 1
    assert len(SweepFolder(sweep).read_specs()) == 1
    directory = sweep / compute_signature(tiny(*RUNS[BY_COMMAND]))
    assert_frame_equal(numbers(directory), numbers(alone / BY_COMMAND), rel_tol=1e-12, abs_tol=1e-14)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["compute.nodes=2"], "compute.nodes=2: start nc-train on every node, by srun or torchrun"),
        (["compute.devices=2", "compute.accelerator=mps"], "compute.accelerator=mps: there is none over which"),
    ],
)
def test_processes_that_cannot_be_had_are_refused(tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message):
        Pack([RunSpec(tiny(*overrides), [], tmp_path / "run")]).train(SilentListener())
    assert os.listdir(tmp_path) == []


def test_runs_of_one_process_are_spread_alike(tmp_path):
    different = [RunSpec(tiny(f"compute.devices={count}"), [], tmp_path / str(count)) for count in (1, 2)]
    with pytest.raises(ConfigError, match="must be the same for all runs"):
        Pack(different).train(SilentListener())
