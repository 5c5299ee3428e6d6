"""What a command says and writes at its end, and what the commands that read a sweep show in a narrow terminal."""

import io
import re
import shlex
from pathlib import Path

import pytest
from rich.console import Console

from nc_sweeps.config import compute_signature
from nc_sweeps.errors import StoreError
from nc_sweeps.report.digest import digest_sweep
from nc_sweeps.report.page import render
from nc_sweeps.report.paper import write_figures
from nc_sweeps.report.progress import ProgressBar
from nc_sweeps.report.query import query_sweep, tabulate_answer
from nc_sweeps.report.results import show_results
from nc_sweeps.report.runs import compare_runs, describe_run
from nc_sweeps.run_spec import RunSpec
from nc_sweeps.store import files, manifest
from nc_sweeps.store.run_folder import RunFolder
from nc_sweeps.store.runs import RunStore
from tests.configs import tiny

METRICS = ("nc1/train", "nc1/test", "certificate/nc1_bound", "imbalance/expected_deviation", "loss/train", "error/test")


def write_run(sweep, *overrides, metrics=METRICS, rows=3, value=0.00123, status="completed"):
    """Write a run all of whose metrics end at a value."""
    config = tiny(*overrides)
    store = RunStore(sweep / compute_signature(config), config, list(overrides))
    for step in range(rows):
        clocks = {"step": step, "time": 0.5 * step, "epoch": 1.0 * step, "seconds": 1.0}
        store.append(clocks | dict.fromkeys(metrics, value))
    store.finish(status, "")
    return RunFolder(store.directory)


def printed(renderable, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable, highlight=False)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    return text


def count_drawn(picture):
    """Return the number of lines in a picture that sweeps of widths make: a panel each."""
    return len(set(re.findall(r">(N = \d+)<", picture.read_text())))


def test_picture_and_report_are_of_the_whole_folder(tmp_path, capsys):
    first = [write_run(tmp_path, f"width.particles={width}") for width in (8, 12, 16)]
    show_results(first, "time", ["nc1/train"])
    assert "of the folder" not in capsys.readouterr().out
    assert count_drawn(tmp_path / "figure.svg") == 3
    second = [write_run(tmp_path, f"width.particles={width}") for width in (20, 24)]
    show_results(second, "time", ["nc1/train"])
    out = capsys.readouterr().out
    assert "2 runs" in out
    assert out.count("(all 5 runs of the folder)") == 2
    assert count_drawn(tmp_path / "figure.svg") == 5


def test_a_run_that_was_trained_alone_brings_a_picture_up_to_date_and_makes_none(tmp_path, capsys):
    alone = [write_run(tmp_path, f"width.particles={width}") for width in (8, 12)]
    for run in alone:
        show_results([run], "time", ["nc1/train"])
    assert not (tmp_path / "figure.svg").exists()
    assert not (tmp_path / "report.html").exists()
    show_results(alone, "time", ["nc1/train"])
    show_results([write_run(tmp_path, "width.particles=16")], "time", ["nc1/train"])
    assert count_drawn(tmp_path / "figure.svg") == 3
    assert "3 completed" in (tmp_path / "report.html").read_text()
    assert "(all 3 runs of the folder)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("metrics", "rows", "value"),
    [
        (("stationarity/score_free",), 3, 0.5),
        (("stationarity/score_free",), 1, 0.5),
        (("nc1/train",), 3, float("nan")),
        (("nc1/train",), 3, 0.0),
        (("nc4/train", "head/sigma_min"), 3, float("nan")),
        (METRICS, 1, 0.5),
    ],
    ids=["others", "only the start", "undefined", "zero", "others undefined", "all at the start"],
)
@pytest.mark.parametrize("seeds", [1, 2])
def test_any_metrics_have_results(tmp_path, capsys, metrics, rows, value, seeds):
    runs = [
        write_run(tmp_path, f"seed={seed}", f"width.particles={width}", metrics=metrics, rows=rows, value=value)
        for seed in range(seeds)
        for width in (8, 12)
    ]
    assert show_results(runs[:1], "time", ["nc1/train"])
    assert show_results(runs, "time", ["nc1/train"])
    assert show_results(runs, "width.particles", ["nc1/train", "error/test"])
    assert "results:" in capsys.readouterr().out
    write_figures(digest_sweep(tmp_path), tmp_path / "figures", ["svg"])
    printed(describe_run(runs[0].path))
    printed(compare_runs([run.path for run in runs]))


def test_where_all_runs_failed_there_are_results(tmp_path, capsys):
    runs = [write_run(tmp_path, f"seed={seed}", status="diverged", value=1e40) for seed in range(2)]
    runs.append(write_run(tmp_path, "seed=2", rows=0, status="failed"))
    assert not show_results(runs, "time", ["nc1/train"])
    assert "left out: 2 diverged" in capsys.readouterr().out
    assert "e+40" not in (tmp_path / "figure.svg").read_text()


def test_the_command_that_reproduces_a_sweep_names_sweeper_and_launcher(tmp_path):
    run = write_run(tmp_path, "seed=0")
    spec = RunSpec(tiny("seed=0"), ["seed=0"], run.path)
    typed = ["hydra/launcher=slurm", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "hydra.launcher.partition=gpu"]
    invocation = {
        "overrides": ["model.gamma=interval(0.5, 2.0)"],
        "hydra": [*typed, "hydra.mode=MULTIRUN"],
        "config_folders": ["/my experiments"],
        "launcher": {"wait": True},
    }
    for entry in (invocation, {"overrides": ["seed=0,1"], "launcher": {}}, {"overrides": ["seed=0"]}):
        manifest.write(tmp_path, [spec], entry, {})
    condensed = digest_sweep(tmp_path)
    assert [shlex.split(command) for command in condensed.commands] == [
        ["nc-train", "-m", *typed, "--config-dir=/my experiments", "model.gamma=interval(0.5, 2.0)"],
        ["nc-train", "-m", "hydra/launcher=packed", "seed=0,1"],
        ["nc-train", "seed=0"],
    ]
    assert "hydra.sweeper.n_trials=4" in render(condensed)


def test_commands_that_read_cut_no_digit_at_80_columns(tmp_path):
    widths = (8, 12, 16, 20, 24, 28, 32)
    runs = [write_run(tmp_path, f"width.particles={n}", f"dynamics.lambda_w={n * 1.2345e-6}") for n in widths]
    described = printed(describe_run(runs[0].path))
    for name in METRICS:
        assert re.search(rf"{name} +0\.0012 +0\.0012 +0\.0012 +▁+\s", described), name
    compared = printed(compare_runs([run.path for run in runs]))
    for run, width in zip(runs, widths, strict=True):
        assert run.name in compared
        assert f"{width * 1.2345e-6:.6g}" in compared
    assert "…" not in described + compared
    everything = printed(tabulate_answer(query_sweep(tmp_path, "select * from runs")))
    assert runs[0].name in everything
    assert re.search(r"no room for [\s\S]*and \d+ more", everything)
    chosen = 'select "dynamics.lambda_w", "nc1/train", avg("nc1/train") as mean from runs group by 1, 2 order by 1'
    answer = printed(tabulate_answer(query_sweep(tmp_path, chosen)))
    assert re.search(r"9\.876e-06 +0\.0012 +0\.00123\s", answer)


def test_of_a_run_that_is_done_no_bar_remains():
    console = Console(file=io.StringIO(), force_terminal=True, width=80, legacy_windows=False)
    with ProgressBar(console):
        pass
    last_line = console.file.getvalue().rpartition("\n")[2]
    assert last_line.endswith("\x1b[1A\x1b[2K")
    lines = Console(file=io.StringIO())
    with ProgressBar(lines) as progress:
        progress.begin(1, 1)
        progress.finish_runs(1)
    assert lines.file.getvalue() == "1/1 runs trained\n"


def test_a_folder_that_cannot_be_made_is_refused_in_a_line(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    for path in (file, file / "below"):
        with pytest.raises(StoreError, match=r"a file is in the way; expected a folder$"):
            files.make_folder(path)
    with pytest.raises(StoreError, match=r"^/proc/figures: this folder cannot be made"):
        files.make_folder(Path("/proc/figures"))
    assert file.read_text() == "mine"
    with pytest.raises(OSError, match="No such file") as error:
        files.write(tmp_path / "missing" / "specification.json", b"{}")
    assert error.value.filename == str(tmp_path / "missing" / "specification.json")
    with pytest.raises(OSError, match="No space") as error:
        files.replace(tmp_path / "a", _fill_disk)
    assert error.value.filename == str(tmp_path / "a")
    assert not list(tmp_path.glob(".a.*"))


def _fill_disk(file):
    raise OSError(28, "No space left on device")
