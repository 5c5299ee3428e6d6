"""Launched sweeps as a user looks after them: planned, detached, watched, cancelled, killed, resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import psutil
import pytest
from nc_launch.submission import find_submissions
from polars.testing import assert_frame_equal

import nc_sweeps
from nc_sweeps.store.environment import describe_environment
from nc_sweeps.store.sweep_folder import SweepFolder
from tests.configs import TINY
from tests.processes import PATIENCE

pytestmark = pytest.mark.processes

SWEEP = [
    "-m",
    "hydra/launcher=packed",
    *TINY,
    "dynamics.horizon=250000",
    "width.particles=60",
    "seed=range(4)",
    "compute.checkpoint_seconds=0",
]


@pytest.fixture
def nc_sweep(tmp_path):
    def run(*arguments):
        command = [str(Path(sys.executable).with_name("nc-sweep")), *arguments]
        environment = os.environ | {"COLUMNS": "100"}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="module")
def undisturbed_sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    command = [sys.executable, "-m", "nc_sweeps", *SWEEP, "name=sweep"]
    subprocess.run(command, cwd=folder, capture_output=True, check=True)
    return folder / "results" / "sweep"


@pytest.fixture(scope="module")
def undisturbed(undisturbed_sweep):
    return nc_sweeps.load_sweep(undisturbed_sweep).drop("seconds")


def assert_same_numbers(sweep, undisturbed):
    # Equal to rounding in float64: a process that takes runs over may train them in ensembles of another size.
    assert_frame_equal(nc_sweeps.load_sweep(sweep).drop("seconds"), undisturbed, rel_tol=1e-10, abs_tol=1e-13)


def wait_for(condition, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def find_workers(folder):
    """Return the processes that train the sweeps of a folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if "submitit.core._submit" in (process.info["cmdline"] or []) and str(folder) in process.info["cmdline"][-1]:
            found.append(process)
    return found


def have_begun(sweep, runs=4):
    return len(list(sweep.glob("*/checkpoint.safetensors"))) == runs


def test_a_dry_run_plans_and_leaves_nothing(run_command, tmp_path):
    done = run_command(*SWEEP, "hydra.launcher.dry_run=true", "hydra.launcher.max_runs_per_pack=3")
    assert done.returncode == 0, done.stderr
    assert "4 runs in 2 packs, 1 job; 0 done already" in done.stdout
    assert "hours of one worker" in done.stdout
    assert {"60"} <= set(done.stdout.split())
    assert not list(tmp_path.glob("results/sweep/[!m]*"))


def test_a_detached_sweep_is_watched_cancelled_resumed_and_attached_to(run_command, nc_sweep, tmp_path, undisturbed):
    sweep = tmp_path / "results" / "sweep"
    left = run_command(*SWEEP, "hydra.launcher.wait=false")
    assert left.returncode == 0
    assert "nc-sweep attach" in " ".join(left.stderr.split())
    wait_for(lambda: have_begun(sweep))
    training = find_workers(tmp_path)
    for worker in training:  # else they would be done before the command has looked
        worker.suspend()
    files = {path: path.stat().st_mtime_ns for path in sweep.glob("manifest/*")}
    shown = nc_sweep("status", "results/sweep")
    assert shown.returncode == 0, shown.stderr
    assert "4 running" in shown.stdout
    assert {path: path.stat().st_mtime_ns for path in sweep.glob("manifest/*")} == files

    assert "1 job cancelled" in nc_sweep("cancel", "results/sweep").stdout
    for worker in training:
        worker.resume()
    wait_for(lambda: not find_workers(tmp_path))
    stopped = nc_sweep("status", "results/sweep").stdout
    assert "4 stopped" in stopped
    assert "nc-sweep resume results/sweep" in stopped

    resumed = subprocess.Popen(
        [str(Path(sys.executable).with_name("nc-sweep")), "resume", "results/sweep"], cwd=tmp_path
    )
    wait_for(lambda: find_workers(tmp_path))
    resumed.kill()  # another process waits for the jobs that it started
    resumed.wait()
    attached = nc_sweep("attach", "results/sweep")
    assert attached.returncode == 0, attached.stderr
    assert "4 runs, means over seeds" in attached.stdout
    assert_same_numbers(sweep, undisturbed)
    assert "4 completed" in nc_sweep("status", "results/sweep").stdout


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_launcher_stops_its_workers_which_save(run_command, tmp_path, undisturbed, how):
    sweep = tmp_path / "results" / "sweep"
    command = [sys.executable, "-m", "nc_sweeps", *SWEEP]
    launcher = subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: have_begun(sweep))
    launcher.send_signal(how)
    _, errors = launcher.communicate(timeout=PATIENCE)
    assert launcher.returncode == 1
    assert "interrupted; the same command, or nc-sweep resume, goes on" in errors
    assert "Traceback" not in errors
    assert not find_workers(tmp_path)
    assert not list(sweep.glob(".leases"))
    again = run_command(*SWEEP)
    assert again.returncode == 0, again.stderr
    assert_same_numbers(sweep, undisturbed)


def test_a_killed_worker_is_replaced_and_two_launchers_do_each_run_once(run_command, tmp_path, undisturbed):
    sweep = tmp_path / "results" / "sweep"
    command = [sys.executable, "-m", "nc_sweeps", *SWEEP]
    launchers = [
        subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    wait_for(lambda: have_begun(sweep))
    find_workers(tmp_path)[0].kill()
    for launcher in launchers:
        _, errors = launcher.communicate(timeout=PATIENCE)
        assert launcher.returncode == 0, errors
    assert_same_numbers(sweep, undisturbed)


def test_a_worker_takes_pack_after_pack_and_its_end_is_no_fault_of_those_in_line(tmp_path, undisturbed):
    sweep = tmp_path / "results" / "sweep"
    command = [sys.executable, "-m", "nc_sweeps", *SWEEP, "hydra.launcher.max_runs_per_pack=1"]
    launcher = subprocess.Popen(command, cwd=tmp_path)
    for runs in (2, 3):
        wait_for(lambda runs=runs: have_begun(sweep, runs) and find_workers(tmp_path))
        (worker,) = find_workers(tmp_path)
        worker.kill()
        worker.wait()
    assert launcher.wait(PATIENCE) == 0
    (submission,) = find_submissions(sweep)
    assert len(submission.jobs) == 3
    assert_same_numbers(sweep, undisturbed)


def test_a_run_that_kills_its_worker_fails_alone(run_command, tmp_path):
    """A width that needs too much memory, and a limit at which the system kills the process that asks for it."""
    limit = f"ulimit -v {12 * 2**20}; exec"
    command = [sys.executable, "-m", "nc_sweeps", "-m", "hydra/launcher=packed", *TINY, "width.particles=12,40000000"]
    done = subprocess.run(
        ["bash", "-c", f'{limit} "$@"', "bash", *command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "1 completed, 1 failed" in done.stderr
    assert "failed: results/sweep/" in " ".join(done.stdout.split())
    statuses = {json.loads(path.read_text())["status"] for path in tmp_path.glob("results/sweep/*/summary.json")}
    assert statuses == {"completed", "failed"}


def test_runs_know_the_commit_of_the_code_that_was_frozen_for_them(undisturbed_sweep):
    runs = SweepFolder(undisturbed_sweep).run_folders()
    commits = {run.read_summary().environment["git_commit"] for run in runs}
    assert commits == {describe_environment()["git_commit"]}


def test_errors_are_one_line(nc_sweep):
    for arguments in (["status", "nowhere"], ["resume", "nowhere"], ["attach", "nowhere"]):
        done = nc_sweep(*arguments)
        assert done.returncode == 1
        assert done.stderr.startswith("nc-sweep: nowhere: ")
        assert len(done.stderr.splitlines()) == 1


def test_a_sweep_is_launched_where_there_is_no_git(tmp_path):
    command = [sys.executable, "-m", "nc_sweeps", "-m", "hydra/launcher=packed", *TINY]
    environment = os.environ | {"PATH": str(Path(sys.executable).parent)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 run in 1 pack\n" in done.stderr
    assert "1 run: 1 completed" in done.stderr


def test_runs_are_shown_compared_and_asked_for(nc_sweep, undisturbed_sweep, undisturbed):
    runs = [path.parent for path in sorted(undisturbed_sweep.glob("*/summary.json"))]
    last = undisturbed.group_by("signature", maintain_order=True).last()
    shown = nc_sweep("show", str(runs[0]))
    assert shown.returncode == 0, shown.stderr
    assert "completed" in shown.stdout
    assert "particles: 60" in shown.stdout
    assert f"{last['loss/train'][0]:.2g}" in next(line for line in shown.stdout.splitlines() if "loss/train" in line)
    compared = nc_sweep("compare", *map(str, runs[:2]))
    lines = compared.stdout.splitlines()
    assert [line.split()[1:] for line in lines if line.split()[:1] == ["seed"]] == [[str(x) for x in last["seed"][:2]]]
    assert not any("width.particles" in line for line in lines)

    answer = nc_sweep("query", str(undisturbed_sweep), 'select seed, "nc1/train" from runs order by seed')
    assert_frame_equal(
        pl.read_csv(answer.stdout.encode()), last.select("seed", "nc1/train").sort("seed"), check_dtypes=False
    )
    for bad, told in (("select nothing from runs", "nothing"), ("select from", "query: ")):
        refused = nc_sweep("query", str(undisturbed_sweep), bad)
        assert refused.returncode == 1
        assert told in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
    nowhere = nc_sweep("show", "nowhere")
    assert (nowhere.returncode, len(nowhere.stderr.splitlines())) == (1, 1)
