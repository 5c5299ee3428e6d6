"""The test cluster behaves as real clusters do, seen through submitit."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cloudpickle
import psutil
import pytest
import submitit
import torch

from tests.processes import PATIENCE
from tests.slurm.cluster import Cluster
from tests.slurm.configuration import NODES, ClusterOptions

# Jobs need not import the tests.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def make_executor(folder: Path, **parameters: Any) -> submitit.AutoExecutor:
    # Above ten minutes: with less, submitit takes a preemption for a time-out.
    made = submitit.AutoExecutor(folder, cluster="slurm")
    made.update_parameters(timeout_min=20, tasks_per_node=1, cpus_per_task=1, **parameters)
    return made


def find_device(meeting: Path, index: int) -> tuple[str, str]:
    """Return the node and GPUs of a task, while seven others have theirs."""
    (meeting / str(index)).touch()
    while len(list(meeting.iterdir())) < 8:
        time.sleep(0.1)
    return os.environ["SLURMD_NODENAME"], os.environ["CUDA_VISIBLE_DEVICES"]


def wait_for_restart(started: Path) -> tuple[str, str]:
    """Return only where SLURM has started the job again."""
    count = os.environ.get("SLURM_RESTART_COUNT", "0")
    if count == "0":
        started.write_text(os.environ["SLURMD_NODENAME"])
        time.sleep(600)
    return count, os.environ["SLURMD_NODENAME"]


class Work:
    """A task that returns only after a checkpoint."""

    def __init__(self, started: Path) -> None:
        self.started, self.checkpoints = started, 0

    def __call__(self) -> tuple[int, str]:
        if self.checkpoints == 0:
            self.started.touch()
            time.sleep(600)
        return self.checkpoints, os.environ["SLURM_RESTART_COUNT"]

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        self.checkpoints += 1
        return submitit.helpers.DelayedSubmission(self)


def sum_ranks() -> tuple[str, float]:
    """Return the address of the master, and the sum of 1 + rank over the tasks of a job."""
    submitit.helpers.TorchDistributedEnvironment().export()
    # submitit's port is often one of those that systems give to clients, and may be in use.
    os.environ["MASTER_PORT"] = str(32_000 + int(os.environ["SLURM_JOB_ID"]) % 768)
    torch.distributed.init_process_group("gloo")
    value = torch.tensor(1.0 + torch.distributed.get_rank())
    torch.distributed.all_reduce(value)
    return os.environ["MASTER_ADDR"], value.item()


def test_an_array_has_a_gpu_for_each_task(on_slurm, tmp_path):
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    jobs = make_executor(tmp_path, slurm_gpus_per_task=1).map_array(find_device, [meeting] * 8, range(8))
    on_slurm.wait(lambda: all(job.done() for job in jobs))
    assert sorted(job.result() for job in jobs) == [(node, gpu) for node in NODES for gpu in "01"]


def test_nodes_of_a_job_meet_at_the_name_of_the_first(on_slurm, tmp_path):
    job = make_executor(tmp_path, nodes=2).submit(sum_ranks)
    on_slurm.wait(job.done)
    assert job.results() == [("f1", 3.0), ("f1", 3.0)]


def test_a_preempted_job_is_checkpointed_and_requeued(on_slurm, tmp_path):
    started = tmp_path / "started"
    job = make_executor(tmp_path, slurm_partition="low").submit(Work(started))
    on_slurm.wait(started.exists)
    on_slurm.run("sbatch", "--partition=high", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=true")
    on_slurm.wait(job.done)
    assert job.result() == (1, "1")
    on_slurm.wait(lambda: read_ends(on_slurm, job.job_id) == ["REQUEUED", "COMPLETED"])


def test_a_job_outlives_the_crash_of_its_node(on_slurm, tmp_path):
    started = tmp_path / "started"
    job = make_executor(tmp_path).submit(wait_for_restart, started)
    on_slurm.wait(started.exists)
    first = started.read_text()
    processes = find_job_processes(on_slurm, first)
    on_slurm.crash(first)
    assert processes
    assert not any(process.is_running() for process in processes)
    # Not job.result(): submitit takes the failure of a node for the job's end.
    on_slurm.wait(job.paths.result_pickle.exists)
    count, second = job.result()
    assert count == "1"
    assert second != first
    on_slurm.wait(lambda: read_ends(on_slurm, job.job_id) == ["NODE_FAIL", "COMPLETED"])


def test_a_job_outlives_the_daemon_of_its_node(on_slurm, tmp_path):
    started = tmp_path / "started"
    job = make_executor(tmp_path).submit(wait_for_restart, started)
    on_slurm.wait(started.exists)
    node = started.read_text()
    on_slurm.kill_slurmd(node)
    processes = find_job_processes(on_slurm, node)
    on_slurm.start(node)
    assert processes
    assert all(process.is_running() for process in processes)
    assert on_slurm.jobs() == {job.job_id: "RUNNING"}


def test_parameters_decide(slurm):
    with Cluster(ClusterOptions(max_array_size=5, requeue=False, preempt_signal=False)) as cluster:
        script = ("--output=/dev/null", "--wrap=sleep 600")
        with pytest.raises(subprocess.CalledProcessError, match="sbatch"):
            cluster.run("sbatch", "--array=0-5", *script)
        job = cluster.run("sbatch", "--parsable", "--array=0-4", "--nodelist=f1", "--exclusive", *script).strip()
        cluster.wait(lambda: "RUNNING" in cluster.jobs().values())
        cluster.crash("f1")
        cluster.take_down("f1")
        cluster.wait(lambda: read_ends(cluster, f"{job}_0") == ["NODE_FAIL"])
        assert "preempt_send_user_signal" not in cluster.run("scontrol", "show", "config")


def test_nothing_outlives_the_owner(slurm):
    command = [sys.executable, "-m", "tests.slurm.cluster"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        try:
            exports = [owner.stdout.readline().removeprefix("export ").strip() for _ in slurm.environment]
            environment = dict(export.split("=", 1) for export in exports)
            job = ["sbatch", "--output=/dev/null", "--wrap=sleep 600"]
            subprocess.run(job, env=os.environ | environment, check=True, capture_output=True)
            slurm.wait(lambda: any("sleep" in process.name() for process in find_descendants(owner)))
            processes = find_descendants(owner)
        finally:
            owner.kill()
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE)
    shutil.rmtree(Path(environment["SLURM_CONF"]).parent)
    assert not alive


def find_descendants(owner: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(owner.pid).children(recursive=True)


def read_ends(cluster: Cluster, job: str) -> list[str]:
    """Return the states in which a job ended, each time that accounting knows of."""
    lines = cluster.run("sacct", "-D", "-X", "--parsable2", "--noheader", "--format=State", f"--jobs={job}")
    return lines.split()


def find_job_processes(cluster: Cluster, node: str) -> list[psutil.Process]:
    """Return the processes of jobs on a node."""
    marks = {"SLURM_CONF": cluster.environment["SLURM_CONF"], "SLURMD_NODENAME": node}
    found = []
    for process in psutil.process_iter():
        try:
            if marks.items() <= process.environ().items():
                found.append(process)
        except psutil.Error:
            pass
    return found
