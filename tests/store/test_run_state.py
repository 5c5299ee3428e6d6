"""The state of a run, from its summary and from whether a process holds it."""

import math

import pytest

from nc_sweeps.store.run_state import RunState
from nc_sweeps.store.summary import MetricSummary, Progress, Summary


def make_summary(status, progress, nc1=0.5, reason=""):
    metrics = {"nc1/train": MetricSummary(1.0, nc1, 0.5, 10)}
    return Summary("signature", status, reason, None, "", "", progress, metrics)


@pytest.mark.parametrize(
    ("status", "is_held", "state"),
    [
        ("running", True, "running"),
        ("running", False, "stopped"),
        ("completed", False, "completed"),
        ("completed", True, "completed"),  # its process has not given it back yet
        ("diverged", False, "diverged"),
        ("failed", True, "failed"),
    ],
)
def test_a_run_that_was_begun_runs_as_long_as_a_process_holds_it(status, is_held, state):
    summary = make_summary(status, Progress(steps=40, step=10, seconds=3.0))
    assert RunState.of("run", summary, is_held).state == state


def test_a_run_that_was_not_begun_waits_or_starts():
    assert RunState.of("run", None, is_held=False).state == "waiting"
    assert RunState.of("run", None, is_held=True).state == "starting"


def test_the_rest_takes_as_long_a_step_as_what_is_done():
    state = RunState.of("run", make_summary("running", Progress(steps=40, step=10, seconds=3.0)), is_held=True)
    assert (state.progress, state.seconds_left) == (0.25, 9.0)
    state = RunState.of("run", make_summary("running", Progress()), is_held=True)
    assert state.progress == 0
    assert math.isnan(state.seconds_left)


def test_what_is_undefined_is_nan_and_a_stopped_run_says_why():
    state = RunState.of("run", make_summary("running", Progress(), nc1=None), is_held=False, overrides=["seed=1"])
    assert math.isnan(state.nc1)
    assert state.reason == "nobody goes on with it"
    assert state.overrides == ["seed=1"]
