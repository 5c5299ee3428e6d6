"""Seconds that are predicted add up. How well they are met: ``python -m benchmarks cost``."""

from dataclasses import replace

import pytest

from nc_sweeps.data import load
from nc_sweeps.dynamics.schedule import Schedule
from nc_sweeps.training.calibration import measure_speed
from nc_sweeps.training.seconds import PAUSES
from nc_sweeps.training.sizes import Size
from tests.configs import config_of


def test_speed_is_measured_and_adds_up():
    speed = measure_speed()
    assert speed.work > 0
    assert min(vars(speed).values()) >= 0
    assert speed.gathered > 0
    config = config_of("dynamics=noisy_gradient_flow")
    size = Size.of(config, load(config.dataset), Schedule.of(config.dynamics, 300), 0)
    one, four = speed.predict_seconds(size, 1), speed.predict_seconds(size, 4)
    assert one < four <= 4 * one  # what a measurement costs whatever the runs is paid once
    twice = replace(size, steps=2 * size.steps, measurements=2 * size.measurements)
    assert speed.pause > 0  # of which there are as many on a way twice as long, but for those of measurements
    assert speed.predict_seconds(twice, 1) == pytest.approx(2 * one - PAUSES * speed.pause, rel=1e-12)
    assert speed.predict_seconds(replace(size, noisy=False), 1) <= one
    batches = replace(size, batch=size.samples // 2)
    assert speed.predict_seconds(batches, 1) > speed.predict_seconds(replace(batches, samples=batches.batch), 1)
