"""The files of a submission keep their form: old ones can be read, and other processes read new ones."""

import json

import pytest
from nc_launch.jobs import Jobs
from nc_launch.pack_progress import PackProgress
from nc_launch.settings import SlurmSettings
from nc_launch.submission import Submission, find_submissions
from nc_launch.task import Task

from nc_sweeps.errors import StoreError

LOCAL = {
    "runs_per_gpu": 32,
    "max_runs_per_pack": None,
    "pack_minutes": 0.0,
    "dry_run": False,
    "wait": True,
    "devices": 1,
    "device_nodes": 1,
}
SLURM = LOCAL | {
    "job_name": "nc-train",
    "array_parallelism": 8,
    "partition": "gpu",
    "account": None,
    "qos": None,
    "constraint": None,
    "nodes": 1,
    "gpus_per_node": 2,
    "gpu_type": None,
    "cpus_per_task": 4,
    "mem_gb": None,
    "timeout_min": 240,
    "signal_delay_s": 120,
    "setup": ["module load cuda"],
    "python": None,
    "container_image": None,
    "srun_args": [],
    "additional_parameters": {"reservation": "ours"},
}


@pytest.fixture
def write(tmp_path):
    def write(place, settings, name="20260101T000000.000000-abcdef"):
        content = {
            "place": place,
            "settings": settings,
            "manifest": "manifest/first.json",
            "packs": [["run1", "run2"], ["run3"]],
            "jobs": {"7_0": [0], "7_1": [1]},
            "untracked": ["new.py"],
        }
        folder = tmp_path / ".launch" / name
        folder.mkdir(parents=True)
        (folder / "submission.json").write_text(json.dumps(content))
        return folder

    return write


@pytest.mark.parametrize(("place", "settings"), [("packed", LOCAL), ("slurm", SLURM)])
def test_a_submission_is_written_as_it_was_read(write, place, settings):
    folder = write(place, settings)
    before = (folder / "submission.json").read_text()
    submission = Submission.read(folder)
    submission.write()
    assert json.loads((folder / "submission.json").read_text()) == json.loads(before)
    assert submission.manifest == folder.parent.parent / "manifest" / "first.json"
    assert (submission.sweep, submission.find_job(1)) == (folder.parent.parent, "7_1")


def test_settings_are_typed_by_the_backend_and_missing_ones_have_their_defaults(write):
    (submission,) = find_submissions(write("slurm", {"devices": 2, "gone": 1}).parent.parent)
    assert submission.origin.settings == SlurmSettings(devices=2)
    assert submission.origin.settings.shares_packs


def test_a_pack_without_a_file_waits(write):
    submission = Submission.read(write("packed", LOCAL))
    submission.progress_path(1).write_text('{"state": "running", "work": 3}')
    assert submission.read_all_progress() == [PackProgress(), PackProgress("running", work=3)]
    assert [progress.has_begun for progress in submission.read_all_progress()] == [False, True]


def test_an_unknown_backend_is_named(write):
    with pytest.raises(StoreError, match=r"submission\.json: damaged, there is no backend moon"):
        Submission.read(write("moon", LOCAL))


@pytest.mark.parametrize(
    ("states", "requeuing"),
    [
        (["interrupted", "interrupted", "waiting", "interrupted"], 0),
        (["done", "interrupted", "done", "waiting"], 1),  # the first process has finished its packs
        (["done", "done", "interrupted", "interrupted"], 0),
    ],
)
def test_one_process_of_an_interrupted_job_puts_it_back_into_the_queue(write, states, requeuing):
    """Two processes deal out four packs; the one that was interrupted in the first of them does it."""
    submission, packs = Submission.read(write("slurm", SLURM)), (0, 1, 2, 3)
    for pack, state in enumerate(states):
        submission.progress_path(pack).write_text(json.dumps({"state": state}))
    task = Task(submission.folder, packs)
    assert [task._is_first_interrupted(submission, packs[rank::2]) for rank in (0, 1)] == [
        rank == requeuing for rank in (0, 1)
    ]


EXITED = "srun: error: f1: tasks 0-1: Exited with exit code 1"


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (["Traceback (…):", "ImportError: no torch", EXITED], "ImportError: no torch"),
        (
            ["srun: unrecognized option '--x'", 'Try "srun --help" for more information'],
            "srun: unrecognized option '--x'",
        ),
        (
            ["slurmstepd: error: execve(): /no: No such file", EXITED, ""],
            "slurmstepd: error: execve(): /no: No such file",
        ),
        (
            ["bash: x: not found", "slurmstepd: error: *** STEP 7.0 ON f1 CANCELLED AT 2026-01-01 ***"],
            "bash: x: not found",
        ),
        ([EXITED], ""),
        ([], ""),
        (None, ""),
    ],
)
def test_the_first_reason_is_the_last_line_that_says_one(write, log, line):
    jobs = Jobs(Submission.read(write("slurm", SLURM)))
    jobs.submission.logs.mkdir()
    if log is not None:
        (jobs.submission.logs / "7_1_0_log.err").write_text("\n".join(log))
    assert jobs.read_last_error(1) == line


def test_what_is_wrong_with_a_whole_job_is_in_the_log_of_its_first_process(write):
    submission = Submission.read(write("slurm", SLURM))
    submission.jobs = {"7_0": [0, 1]}
    submission.logs.mkdir()
    (submission.logs / "7_0_0_log.err").write_text("srun: fatal: no such plugin\n")
    assert Jobs(submission).read_last_error(1) == "srun: fatal: no such plugin"
    (submission.logs / "7_0_1_log.err").write_text("ImportError: no torch\n")
    assert Jobs(submission).read_last_error(1) == "ImportError: no torch"
