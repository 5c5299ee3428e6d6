"""The view of a sweep in progress, at a terminal and without one."""

import io
import os
import pty
import re
import threading
import tty

import pytest
from nc_launch.pack_progress import PackProgress, ProgressWriter
from nc_launch.status import _make_run_table, _shorten_overrides
from nc_launch.view import SweepView
from rich.console import Console

from nc_sweeps.store.run_state import RunState


@pytest.fixture
def packs(tmp_path, monkeypatch):
    """Writers of the progress of two packs of four runs: one pack is at work, one has not begun to train."""
    monkeypatch.setenv("SLURMD_NODENAME", "node7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setattr("nc_launch.pack_progress._INTERVAL", 0.0)
    writer = ProgressWriter(tmp_path / "0.json")
    writer.begin(4, 200)
    writer.finish_runs(1)
    writer.advance(50, {"nc1/train": [0.25, 0.5, 0.125, float("nan")]})
    return [writer, ProgressWriter(tmp_path / "1.json")]


def read_progress(packs):
    return [PackProgress.read(writer.path) for writer in packs]


@pytest.fixture
def terminal(monkeypatch):
    """A console at a terminal of its own, and a function that closes it and returns what it received."""
    monkeypatch.setenv("TERM", "xterm-256color")
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    sent = []

    def listen():
        while True:
            try:
                sent.append(os.read(ours, 4096))
            except OSError:  # the other end is closed
                return

    listener = threading.Thread(target=listen)
    listener.start()
    file = os.fdopen(theirs, "w")

    def close():
        file.close()
        listener.join()
        return b"".join(sent).decode()

    yield Console(file=file, width=110), close
    file.close()
    listener.join()
    os.close(ours)


def test_at_a_terminal_all_runs_and_each_pack_at_work_have_a_bar(packs, terminal):
    console, close = terminal
    assert console.is_terminal
    with SweepView(console) as view:
        view.show(read_progress(packs), 8)
        view._bar.refresh()
        packs[0].finish_runs(3)
        packs[0].close("done")
        view.show(read_progress(packs), 8)
        view._bar.refresh()
    frames = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", close())
    assert re.search(r"1/8 runs .*25%.* NC1 0\.12 … 0\.5", frames)
    assert re.search(r"1/4 pack 0 on node7:3 .*25%.* NC1 0\.12 … 0\.5", frames)
    # A pack that is done has no bar any more; a pack that begins has one.
    last = frames[frames.rindex("4/8 runs") :]
    assert "pack 1 on node7:3" in last
    assert "pack 0" not in last


def test_without_a_terminal_a_line_is_written_now_and_then(packs):
    console = Console(file=io.StringIO(), width=110)
    with SweepView(console) as view:
        view.show(read_progress(packs), 80)
        assert console.file.getvalue() == ""  # fewer runs have ended than are worth a line
        view.show(read_progress(packs), 8)
        view.show(read_progress(packs), 8)
        packs[0].finish_runs(3)
        view.show(read_progress(packs), 8)
    assert console.file.getvalue() == "1/8 runs: NC1 0.12 … 0.5\n4/8 runs: NC1 0.12 … 0.5\n"


def test_before_a_measurement_a_line_ends_with_the_runs():
    console = Console(file=io.StringIO(), width=110)
    with SweepView(console) as view:
        view.show([PackProgress("running", runs=24, finished=8)], 24)
    assert console.file.getvalue() == "8/24 runs\n"


def render(table):
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    return console.file.getvalue()


def test_the_status_shows_where_runs_differ_and_cuts_nothing_at_80_columns():
    shared = ["dataset.train_per_class=100", "model.activation=sigmoid", "dynamics.horizon=100000"]
    runs = [
        RunState(f"{width:012}", "running", 0.07, 86_400.0 * 12, 0.00012, "", [*shared, f"dynamics.lambda_w={lam}",
                 f"width.particles={width}", f"dataset.margin={margin}", f"separation.margin={margin}"])
        for lam, width, margin in [(0.00012345, 16384, -0.1), (0.5, 32, 0.25)]
    ]  # fmt: skip
    shown = render(_make_run_table(runs, _shorten_overrides(runs)))
    assert "…" not in shown
    words = shown.split()
    assert {"lambda_w=0.00012345", "particles=16384", "dataset.margin=-0.1", "separation.margin=0.25"} <= set(words)
    assert words.count("0.00012") == words.count("288:00:00") == 2
    assert "sigmoid" not in shown
    alone = render(_make_run_table(runs[:1], _shorten_overrides(runs[:1])))
    assert "overrides" not in alone
