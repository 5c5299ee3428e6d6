"""Runs that came near the edge of stability are named with the time, in a terminal and in the report."""

from pathlib import Path

import polars as pl
import pytest

from nc_sweeps.report.digest import digest_sweep
from nc_sweeps.report.edge import find_near_edge
from nc_sweeps.report.page import render
from nc_sweeps.report.results import show_results
from nc_sweeps.store.run_folder import RunFolder
from nc_sweeps.store.runs import RunStore
from tests.configs import tiny

#: Values of runs at times 0, 10, 20 and 30; NaN where a value overflowed.
VALUES = ([0.1, 0.5, 1.899, 1.2], [0.1, 1.0, 1.9, 2.05], [0.1, 1.95, 1.0, float("nan")])


def write_runs(sweep: Path, *columns: list[float], name: str = "step/stability") -> list[RunFolder]:
    for number, values in enumerate(columns):
        store = RunStore(sweep / f"run-{number}", tiny(f"seed={number}"), [])
        for step, value in enumerate(values):
            store.append({"step": step, "time": 10.0 * step, "epoch": 1.0, "seconds": 1.0, name: value})
        store.finish("completed")
    return [RunFolder(sweep / f"run-{number}") for number in range(len(columns))]


def table_of(*columns):
    rows = [(f"{run}", 10.0 * i, value) for run, values in enumerate(columns) for i, value in enumerate(values)]
    return pl.DataFrame(rows, schema=["signature", "time", "step/stability"], orient="row")


def test_a_run_is_near_from_95_percent_on_the_earliest_first():
    near = find_near_edge(table_of(*VALUES), "signature")
    assert near.rows() == [("2", 10.0, 1.95), ("1", 20.0, 2.05)]
    assert find_near_edge(table_of(*VALUES).drop("step/stability"), "signature").is_empty()


@pytest.mark.parametrize(("runs", "words"), [(VALUES, "2 of 3 runs"), (VALUES[1:2], "the run"), (VALUES[:1], "")])
def test_a_command_ends_with_a_line_about_them(runs, words, tmp_path, capsys):
    show_results(write_runs(tmp_path / "sweep", *runs), "time", ["step/stability"])
    line = f"{words} came within 5 % of the edge of stability (step/stability 2), first at t = "
    printed = capsys.readouterr().out
    assert ("edge of stability" in printed) == bool(words)
    if words:
        assert line + ("10: " if len(runs) > 1 else "20: ") + "take a smaller dynamics.step_size\n" in printed


def test_the_report_lists_them_and_says_nothing_where_there_are_none(tmp_path):
    write_runs(tmp_path / "near", *VALUES)
    page = render(digest_sweep(tmp_path / "near"))
    section = page[page.index('<section id="edge"') :].partition("</section>")[0]
    assert "2 of 3 runs came within 5 %" in section
    rows = [row for row in section.split("<tr>") if "run-" in row]
    assert ["run-2" in rows[0], "10" in rows[0], "1.95" in rows[0]] == [True] * 3
    assert ["run-1" in rows[1], "20" in rows[1], "2.05" in rows[1]] == [True] * 3
    assert len(rows) == 2
    write_runs(tmp_path / "far", VALUES[0])
    assert 'id="edge"' not in render(digest_sweep(tmp_path / "far"))
    write_runs(tmp_path / "without", VALUES[0], name="loss/train")
    assert 'id="edge"' not in render(digest_sweep(tmp_path / "without"))
