"""What a real cluster makes of the settings of ``hydra/launcher=slurm``, of its rules and of jobs that cannot begin."""

import os
import re
import subprocess
import sys
from pathlib import Path

import cloudpickle
from nc_launch.backends import SlurmBackend
from nc_launch.settings import SlurmSettings
from nc_launch.submission import find_submissions

from tests.configs import TINY
from tests.slurm.configuration import FEATURE, GPU_TYPE

# Jobs need not import the tests.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def read_environment():
    return dict(os.environ)


def submit(cluster, settings, folder, tasks=1):
    """Have jobs return their environments."""
    with SlurmBackend(settings).open_array(folder, f"{folder}/code") as executor:
        jobs = [executor.submit(read_environment) for _ in range(tasks)]
    cluster.wait(lambda: all(job.paths.result_pickle.exists() for job in jobs))
    return jobs


def test_every_setting_reaches_the_cluster(on_slurm, tmp_path, monkeypatch):
    """In a folder and with values that a shell would take apart; a wckey is sent only where it is asked for."""
    settings = SlurmSettings(
        job_name="a job", array_parallelism=1, partition="main,low", account="ours", qos="normal", constraint=FEATURE,
        nodes=1, gpus_per_node=2, gpu_type=GPU_TYPE, cpus_per_task=2, mem_gb=0.75, timeout_min=30, signal_delay_s=240,
        setup=["export GREETING='Grüße, \"du\"'"], python=f"/usr/bin/env BY_PYTHON=1 {sys.executable}",
        srun_args=["--export=ALL,BY_SRUN=1"],
        additional_parameters={"comment": "it's, \"so\"", "exclude": "f3,f4", "no-requeue": True, "requeue": False,
                               "mail-type": None, "deadline": "now+2hours"},
    )  # fmt: skip
    settings.check()
    folder = tmp_path / 'it\'s "übel" & $x'
    first, second = submit(on_slurm, settings, folder, tasks=2)
    shown = on_slurm.run("scontrol", "show", "job", first.job_id)
    for part in (
        "JobName=a job", "ArrayTaskThrottle=1", "QOS=normal", f"Features={FEATURE}", "NumNodes=1 NumCPUs=4 NumTasks=2",
        "CPUs/Task=2", "mem=768M", "gres/gpu:small=2" if "gres/gpu:" in shown else f"gres:gpu:{GPU_TYPE}:2",
        "TimeLimit=00:30:00", "ExcNodeList=f[3-4]", "Requeue=0", "Comment=it's, \"so\"", f"StdOut={folder}/",
    ):  # fmt: skip
        assert part in shown
    assert "Deadline=N/A" not in shown
    assert re.search(r"Partition=(main|low)\n", shown.replace(" ", "\n"))
    gpus = set()
    for job in (first, second):
        for environment in job.results():
            assert environment["GREETING"] == 'Grüße, "du"'
            assert environment["BY_PYTHON"] == environment["BY_SRUN"] == "1"
            assert environment["SLURM_CPUS_PER_TASK"] == "2"
            assert environment["PYTHONPATH"] == f"{folder}/code"
            gpus.add(environment["CUDA_VISIBLE_DEVICES"])
    assert gpus == {"0", "1"}
    script = first.paths.submission_file.read_text()
    assert re.search(r"^#SBATCH --signal=USR2@240$", script, re.M)
    assert "#SBATCH --account=ours\n" in script  # accounting of the tests has no such account, and takes its own
    assert "wckey" not in script
    asked = SlurmBackend(SlurmSettings(additional_parameters={"wckey": "ours"}))
    assert asked._make_parameters(None)["additional_parameters"] == {"wckey": "ours"}

    backend = SlurmBackend(settings)
    on_slurm.wait(lambda: backend.describe_end(first.job_id) == "completed")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("sacct", "squeue"):
        (programs / name).write_text("#!/bin/sh\nexit 1\n")
        (programs / name).chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        assert backend.describe_end(first.job_id) == "completed"  # the controller knows it, too
        assert backend.find_states(["7_0"]) == {"7_0": "unknown"}


def test_a_cluster_that_passes_no_environment_on_trains_all_the_same(on_slurm, tmp_path, monkeypatch):
    monkeypatch.setenv("SBATCH_EXPORT", "NONE")
    monkeypatch.setenv("OURS", "1")
    (job,) = submit(on_slurm, SlurmSettings(cpus_per_task=1), tmp_path)
    environment = job.result()
    assert environment["PYTHONPATH"] == f"{tmp_path}/code"
    assert environment["SUBMITIT_EXECUTOR"] == "slurm"
    assert "OURS" not in environment


def test_jobs_that_cannot_begin_say_why_and_are_tried_twice(on_slurm, tmp_path):
    """A cluster without pyxis; and the same runs, which failed then, with a Python that is not there."""

    def launch(*settings):
        command = [
            str(Path(sys.executable).with_name("nc-train")),
            "-m",
            "hydra/launcher=slurm",
            *TINY,
            "seed=range(3)",
        ]
        command += ["hydra.launcher.cpus_per_task=1", "hydra.launcher.array_parallelism=1", *settings]
        environment = os.environ | {"COLUMNS": "400"}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    for number, (setting, reason) in enumerate(
        [
            ("container_image=image.sqsh", "srun: unrecognized option '--container-image=image.sqsh'"),
            ("python=/nowhere/python", "/nowhere/python: No such file or directory"),
        ]
    ):
        done = launch(f"hydra.launcher.{setting}")
        assert done.returncode == 1
        assert "pack 0: failed: " in done.stderr
        assert done.stderr.count(reason) == 1
        assert done.stdout.count(f"{reason}, and no run began when tried again") == 3, done.stdout + done.stderr
        assert len(find_submissions(tmp_path / "results" / "sweep")[number].jobs) == 2
