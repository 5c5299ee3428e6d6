"""``hydra/launcher=slurm`` on a real cluster: real submitit, real preemption, real crashes."""

import json
import os
import pty
import select
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hydra import version
from hydra.test_utils.launcher_common_tests import BatchedSweeperTestSuite, IntegrationTestSuite, LauncherTestSuite
from polars.testing import assert_frame_equal

import nc_sweeps
from nc_sweeps.store.sweep_folder import SweepFolder
from tests.configs import TINY
from tests.processes import PATIENCE
from tests.slurm.configuration import NODES

BIN = Path(sys.executable).parent
CLUSTER = ["hydra.launcher.cpus_per_task=1", "hydra.launcher.pack_minutes=0", "hydra.launcher.timeout_min=20"]


def make_command(*arguments):
    return [str(BIN / "nc-train"), "-m", *TINY, *arguments]


def load_numbers(folder):
    return nc_sweeps.load_sweep(folder / "results" / "sweep").drop("seconds", "name").sort("signature", "step")


@pytest.fixture
def environment(on_slurm):
    return os.environ | on_slurm.environment


@pytest.fixture
def run(environment, tmp_path):
    def run(command):
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


def test_a_sweep_of_mixed_widths_has_a_gpu_for_each_pack_and_the_numbers_of_this_machine(run, tmp_path):
    sweep = ["width.particles=8,12,16,20", "seed=range(16)"]
    done = run(make_command("hydra/launcher=slurm", *CLUSTER, *sweep, "hydra.launcher.array_parallelism=4"))
    assert done.returncode == 0, done.stderr
    assert "64 runs in 4 packs" in done.stderr
    assert "64 runs: 64 completed" in done.stderr
    reports = [json.loads(path.read_text()) for path in tmp_path.glob("results/sweep/.launch/*/pack-*.json")]
    assert len(reports) == 4
    assert all(report["gpus"] in {"0", "1"} and report["node"] in NODES for report in reports)
    here = run(make_command("hydra/launcher=packed", *sweep, "output_dir=here"))
    assert here.returncode == 0, here.stderr
    local = nc_sweeps.load_sweep(tmp_path / "here" / "sweep").drop("seconds", "name").sort("signature", "step")
    assert_frame_equal(load_numbers(tmp_path).drop("output_dir"), local.drop("output_dir"), rel_tol=1e-9, abs_tol=1e-13)


def test_two_gpus_of_one_job_take_a_pack_each(on_slurm, run, tmp_path):
    two = ["hydra.launcher.gpus_per_node=2", "hydra.launcher.array_parallelism=1"]
    done = run(make_command("hydra/launcher=slurm", *CLUSTER, *two, "seed=range(4)"))
    assert done.returncode == 0, done.stderr
    assert "4 runs in 2 packs" in done.stderr
    logs = list(tmp_path.glob("results/sweep/.launch/*/logs/*_log.err"))
    assert len({log.name.split("_")[0] for log in logs}) == 1  # one job
    assert on_slurm.run("sacct", "-X", "--noheader", "--format=AllocTRES%60").count("gres/gpu=2") >= 1


def test_preemption_a_crash_and_the_death_of_the_launcher_leave_no_trace(on_slurm, run, environment, tmp_path):
    long = ["seed=range(4)", "dynamics.horizon=600000", "compute.checkpoint_seconds=0"]
    whole = tmp_path / "whole"
    whole.mkdir()
    subprocess.run(make_command("hydra/launcher=packed", *long), cwd=whole, capture_output=True, check=True)

    sweep = tmp_path / "results" / "sweep"
    low = ["hydra.launcher.partition=low", "hydra.launcher.array_parallelism=2"]
    launcher = subprocess.Popen(
        make_command("hydra/launcher=slurm", *CLUSTER, *long, *low),
        cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    on_slurm.wait(lambda: len(list(sweep.glob("*/checkpoint.safetensors"))) == 4)
    on_slurm.run("sbatch", "--partition=high", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    on_slurm.wait(lambda: read_restart_counts(on_slurm) == {"1"})
    launcher.kill()
    launcher.communicate()
    assert "completed" not in read_statuses(sweep)
    on_slurm.wait(lambda: set(on_slurm.jobs().values()) == {"RUNNING"})
    steps = sum_steps(sweep)
    on_slurm.wait(lambda: sum_steps(sweep) > steps)
    node = on_slurm.run("squeue", "--noheader", "--format=%N").split()[0]
    on_slurm.crash(node)
    on_slurm.take_down(node)
    attached = run([str(BIN / "nc-sweep"), "attach", "results/sweep"])
    assert attached.returncode == 0, attached.stderr
    assert read_statuses(sweep) == ["completed"] * 4
    assert_frame_equal(load_numbers(tmp_path), load_numbers(whole), rel_tol=1e-9, abs_tol=1e-13)
    on_slurm.start(node)


class Terminal:
    """A command in a terminal of its own, whose output the test reads and into which it types."""

    def __init__(self, command, env, **options):
        self._master, slave = pty.openpty()
        options["env"] = env | {"TERM": "xterm-256color"}
        streams = {"stdin": slave, "stdout": slave, "stderr": slave}
        self.process = subprocess.Popen(["setsid", "--ctty", *command], **streams, **options)
        os.close(slave)
        self.output = ""

    def read_until(self, text):
        deadline = time.monotonic() + PATIENCE
        while text not in self.output:
            assert select.select([self._master], [], [], deadline - time.monotonic())[0], self.output
            self.output += os.read(self._master, 4096).decode(errors="replace")

    def type(self, keys):
        os.write(self._master, keys.encode())

    def close(self):
        """Read to the end; return the exit code."""
        with suppress(OSError):  # the terminal is closed at the other end
            while True:
                self.output += os.read(self._master, 4096).decode(errors="replace")
        os.close(self._master)
        return self.process.wait(PATIENCE)


def test_ctrl_c_asks_whether_to_detach_or_to_cancel(on_slurm, environment, tmp_path):
    sweep = tmp_path / "results" / "sweep"
    long = ["dynamics.horizon=100000000", "compute.checkpoint_seconds=0"]
    question, ctrl_c = "[d]etach and leave the jobs to themselves, or [c]ancel them?", "\x03"

    launcher = Terminal(make_command("hydra/launcher=slurm", *CLUSTER, *long), cwd=tmp_path, env=environment)
    launcher.read_until("0/1 runs")
    on_slurm.wait(lambda: list(sweep.glob("*/checkpoint.safetensors")))
    launcher.type(ctrl_c)
    launcher.read_until(question)
    launcher.type("d\n")
    assert launcher.close() == 1
    assert "nc-train: detached; nc-sweep status" in launcher.output
    assert list(on_slurm.jobs().values()) == ["RUNNING"]

    attached = Terminal([str(BIN / "nc-sweep"), "attach", "results/sweep"], cwd=tmp_path, env=environment)
    attached.read_until("0/1 runs")
    attached.type(ctrl_c)
    attached.read_until(question)
    attached.type("c\n")
    assert attached.close() == 1
    assert "interrupted; the same command, or nc-sweep resume, goes on from here" in attached.output
    assert on_slurm.jobs() == {}
    assert read_statuses(sweep) == ["running"]
    assert not list(sweep.glob(".leases"))


def read_restart_counts(cluster):
    return set(cluster.run("squeue", "--noheader", "--array", "--partition=low", "--Format=RestartCnt").split())


def read_statuses(sweep):
    return sorted(run.read_summary().status for run in SweepFolder(sweep).run_folders())


def sum_steps(sweep):
    return sum(run.read_summary().progress.step for run in SweepFolder(sweep).run_folders())


def test_a_cluster_that_refuses_is_quoted_in_one_line(run):
    done = run(make_command("hydra/launcher=slurm", "hydra.launcher.partition=nowhere"))
    assert done.returncode == 1
    assert "invalid partition specified: nowhere" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("nc-train: hydra/launcher=slurm: ")
    assert "Traceback" not in done.stderr


@pytest.fixture
def hydra_on_slurm(on_slurm, monkeypatch):
    """The suite is written for Hydra's defaults; importing nc-train sets its version base for the process."""
    for name, value in on_slurm.environment.items():
        monkeypatch.setenv(name, value)
    version.setbase("1.1")
    yield
    version.setbase("1.3")


ON_CPU = ["hydra.launcher.gpus_per_node=0", "hydra.launcher.cpus_per_task=1"]


@pytest.mark.usefixtures("hydra_on_slurm")
@pytest.mark.parametrize(("launcher_name", "overrides"), [("slurm", ON_CPU)])
class TestSlurmLauncher(LauncherTestSuite):
    """Hydra's own tests of a launcher."""


@pytest.mark.usefixtures("hydra_on_slurm")
@pytest.mark.parametrize(("launcher_name", "overrides"), [("slurm", [*ON_CPU, "hydra.sweeper.max_batch_size=2"])])
class TestSlurmLauncherInBatches(BatchedSweeperTestSuite):
    """Hydra's own tests of a launcher under a sweeper that asks in batches."""


MESSAGES = "hydra.hydra_logging.formatters.simple.format='[HYDRA] %(message)s'"


@pytest.mark.usefixtures("hydra_on_slurm")
@pytest.mark.parametrize(
    ("task_launcher_cfg", "extra_flags"), [({}, ["-m", "hydra/launcher=slurm", *ON_CPU, MESSAGES])]
)
class TestSlurmLauncherIntegration(IntegrationTestSuite):
    """Hydra's own tests of a launcher in processes of its own."""
