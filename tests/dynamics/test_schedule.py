import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nc_sweeps.config import StepSizeChange
from nc_sweeps.dynamics.schedule import Piece, Schedule
from nc_sweeps.errors import ConfigError
from tests.configs import tiny

BASE = tiny()


def schedule(n=24, *, horizon, **keys):
    return Schedule.of(dataclasses.replace(BASE.dynamics, horizon=float(horizon), **keys), n)


def test_units():
    assert schedule(horizon=30, horizon_unit="steps").total == 30
    assert schedule(horizon=3, horizon_unit="epochs", batch_size=10).total == 9
    assert schedule(horizon=1.5, horizon_unit="epochs", batch_size=10).total == 4
    assert schedule(horizon=0.3, horizon_unit="time", step_size=0.1).total == 3
    assert schedule(horizon=0.34, horizon_unit="time", step_size=0.1).total == 3
    assert schedule(horizon=0.36, horizon_unit="time", step_size=0.1).total == 4


def test_pieces():
    changes = [StepSizeChange(0.5, 0.01), StepSizeChange(0.75, 0.2)]
    assert schedule(horizon=20, step_size=0.1, schedule=changes).pieces == (
        Piece(0, 10, 0.1),
        Piece(10, 15, 0.01),
        Piece(15, 20, 0.2),
    )
    by_time = schedule(horizon=2.0, horizon_unit="time", step_size=0.1, schedule=changes[:1])
    assert by_time.pieces == (Piece(0, 10, 0.1), Piece(10, 110, 0.01))
    assert by_time.time(110) == pytest.approx(2.0, rel=1e-14)
    coarse = schedule(horizon=1.0, horizon_unit="time", step_size=0.1, schedule=[StepSizeChange(0.5, 0.6)])
    assert coarse.pieces == (Piece(0, 5, 0.1), Piece(5, 6, 0.6))


def test_stage_one_ends_at_a_step():
    changes = [StepSizeChange(0.5, 0.01)]
    assert schedule(horizon=30, horizon_unit="steps", stage_one=12.0).stage_one == 12
    assert schedule(horizon=3, horizon_unit="epochs", batch_size=10, stage_one=2.0).stage_one == 6
    by_time = {"horizon": 2.0, "horizon_unit": "time", "step_size": 0.1, "schedule": changes}
    assert schedule(**by_time, stage_one=0.52).stage_one == 5
    assert schedule(**by_time, stage_one=1.2).stage_one == 30
    metrics = dataclasses.replace(BASE.metrics, points=3)
    assert schedule(horizon=30, horizon_unit="steps", stage_one=12.0).measurements(metrics) == [0, 1, 12, 30]


@given(st.integers(1, 400), st.floats(0.01, 0.9), st.floats(1e-4, 1.0), st.floats(1e-4, 1.0))
def test_time_is_the_sum_of_step_sizes(total, after, first, second):
    s = schedule(horizon=total, step_size=first, schedule=[StepSizeChange(after, second)])
    assert s.total == total
    sizes = [s.step_size(step) for step in range(1, total + 1)]
    assert set(sizes) <= {first, second}
    assert s.time(total) == pytest.approx(sum(sizes), rel=1e-12)
    assert s.time(total // 2) == pytest.approx(sum(sizes[: total // 2]), rel=1e-12)


@pytest.mark.parametrize(("unit", "horizon"), [("time", 0.01), ("epochs", 0.1)])
def test_too_short(unit, horizon):
    with pytest.raises(ConfigError, match="long enough for one step"):
        schedule(horizon=horizon, horizon_unit=unit, step_size=0.1)


def test_too_long():
    with pytest.raises(ConfigError, match=r"dynamics.horizon=1e\+12 time: 1e\+22 steps; must be at most 1e\+15"):
        schedule(horizon=1e12, horizon_unit="time", step_size=1e-10)


@given(st.integers(1, 5000), st.integers(2, 60), st.sampled_from(["log", "linear", "epochs"]), st.integers(1, 7))
def test_measurements_begin_and_end_with_the_run(total, points, spacing, every):
    metrics = dataclasses.replace(BASE.metrics, spacing=spacing, points=points, every=every)
    steps = schedule(horizon=total, batch_size=10).measurements(metrics)
    assert (steps[0], steps[-1]) == (0, total)
    assert steps == sorted(set(steps))
    if spacing != "epochs":
        assert len(steps) <= points
    else:
        assert all(step % (3 * every) == 0 for step in steps[:-1])


def test_epochs_are_passes_over_the_training_set():
    s = schedule(n=24, horizon=4, horizon_unit="epochs", batch_size=10)
    assert [s.epoch(step) for step in (0, 3, 12)] == [0, 1, 4]
