"""A sweep that an earlier version wrote: this version reads it and goes on with it."""

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nc_sweeps
from nc_sweeps.config import compute_signature
from nc_sweeps.store.runs import RunStore
from nc_sweeps.store.sweep_folder import SweepFolder
from tests.processes import PATIENCE

EARLIER = Path(__file__).parent / "sweep_of_an_earlier_version"
INTERRUPTED = "fed204b1f9ee"
STATES = {"8007a8989634": "completed", "e49bc8582b75": "completed", "58e433678070": "diverged", INTERRUPTED: "stopped"}
#: Last value of nc1/train of the interrupted run when the earlier version goes on with it.
NC1 = 0.002484353584311487


@pytest.fixture
def sweep(tmp_path):
    """A copy of the sweep, to work on."""
    return shutil.copytree(EARLIER, tmp_path / "old")


def nc_sweep(*arguments):
    command = [str(Path(sys.executable).with_name("nc-sweep")), *map(str, arguments)]
    environment = os.environ | {"COLUMNS": "200"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_its_runs_are_what_they_were(tmp_path):
    folder = SweepFolder(EARLIER)
    assert {state.name: state.state for state in folder.run_states()} == STATES
    assert {spec.directory.name: compute_signature(spec.config) for spec in folder.read_specs()} == {
        run: run for run in STATES
    }
    for run in folder.run_folders():
        summary = run.read_summary()
        assert summary.signature == run.name
        assert summary.environment["git_commit"].startswith("111492d")
        summary.write(tmp_path / "summary.json")
        assert (tmp_path / "summary.json").read_bytes() == run.summary_path.read_bytes()


def test_its_measurements_are_one_table():
    table = nc_sweeps.load_sweep(EARLIER)
    assert set(table["signature"]) == set(STATES)
    rows = table.filter(signature=INTERRUPTED)
    assert rows["step"][-1] == 20578
    assert rows["width.particles"][0] == 12
    assert math.isclose(rows["nc1/train"][-1], SweepFolder(EARLIER).run(INTERRUPTED).read_summary().last("nc1/train"))


def test_a_metric_that_was_added_since_begins_where_the_run_goes_on(sweep):
    run = SweepFolder(sweep).run(INTERRUPTED)
    kept = run.read_metrics().drop("nc1/test")
    kept.write_parquet(run.metrics_path)
    config = next(spec.config for spec in SweepFolder(sweep).read_specs() if spec.directory.name == INTERRUPTED)
    for value in (0.5, 0.25):
        store = RunStore(run.path, config, [])
        checkpoint = store.resume()
        row = store.rows[-1] | {"step": checkpoint.step + 1, "nc1/test": value}
        store.append(row)
        store.save({}, row["step"])
    table = run.read_metrics()
    assert table.drop("nc1/test").head(kept.height).equals(kept)
    assert table["nc1/test"].to_list()[-2:] == [0.5, 0.25]
    assert table["nc1/test"].is_nan().sum() == kept.height
    summary = run.read_summary().metrics["nc1/test"]
    assert (summary.first, summary.last, summary.best) == (None, 0.25, 0.25)
    assert set(table.columns) == set(row)


@pytest.mark.processes
def test_its_status_and_its_report_are_made(sweep):
    status = nc_sweep("status", sweep)
    assert status.returncode == 0, status.stderr
    assert "2 completed, 1 diverged, 1 stopped" in status.stdout
    report = nc_sweep("report", sweep)
    assert report.returncode == 0, report.stderr
    assert INTERRUPTED in (sweep / "report.html").read_text()


@pytest.mark.processes
def test_its_interrupted_run_is_trained_to_the_end(sweep):
    before = {path: path.read_bytes() for name in STATES if name != INTERRUPTED for path in (sweep / name).iterdir()}
    resumed = nc_sweep("resume", sweep)
    assert "3 done already" in resumed.stderr
    assert resumed.returncode == 1  # one of them diverged
    run = SweepFolder(sweep).run(INTERRUPTED)
    summary = run.read_summary()
    assert (summary.status, summary.progress.step) == ("completed", 150_000), resumed.stderr
    assert math.isclose(summary.last("nc1/train"), NC1, rel_tol=1e-6)
    earlier = SweepFolder(EARLIER).run(INTERRUPTED)
    assert summary.started == earlier.read_summary().started
    kept = earlier.read_metrics()
    rows = run.read_metrics()
    assert rows.head(kept.height).select(kept.columns).equals(kept)
    # A metric that was added since, whose first measurement has no earlier one to start from.
    assert rows["step/stability"].is_nan().to_list() == [True] * kept.height + [False]
    assert before == {path: path.read_bytes() for path in before}
