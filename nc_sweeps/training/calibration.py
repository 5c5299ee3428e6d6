"""Measures how fast this machine trains, for :class:`~nc_sweeps.training.cost.Speed`."""

import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from scipy.optimize import nnls

from nc_sweeps.activations import ACTIVATIONS
from nc_sweeps.dynamics.flow import Flow, Hyperparameters
from nc_sweeps.dynamics.integrators import INTEGRATORS
from nc_sweeps.dynamics.schedule import Piece, Schedule
from nc_sweeps.metrics.statistics import one_hot
from nc_sweeps.models.mean_field import initial_ensemble
from nc_sweeps.training.cost import FlowSize, Speed
from nc_sweeps.training.measurements import MEASUREMENTS, measure
from nc_sweeps.training.references import References
from nc_sweeps.training.snapshot import Snapshot

_STEPS = 2**40  # more than are ever taken
_TIMED_SECONDS = 0.05
_RUNS = 4  # whose steps are timed together, as those of a sweep are taken
_REPEATS = 7  # of which the least counts: what else the machine does only adds


def measure_speed() -> Speed:
    """Time steps and measurements of small ensembles on all threads, and solve for the constants; takes seconds."""
    tiny = _size(16, 4, 6)
    noisy, measured = _size(16, 64, 512, noisy=True), _size(256, 64, 512, noisy=True)
    drawn = (_size(2048, 16, 6, batch=256), _size(512, 512, 6, batch=64))
    sizes = [tiny, _size(256, 8, 512), _size(256, 64, 512), _size(64, 512, 512), noisy, *drawn]
    rows = [(size.step_work, size.normals, 1.0, size.gathered) for size in sizes]
    seconds = np.array([_seconds_a_step(size) for size in sizes])
    # Every row weighs the same in relative error.
    (work, normal, step, gathered), _ = nnls(np.array(rows) / seconds[:, None], np.ones(len(sizes)))
    one, eight, large = (_seconds_a_measurement(size, runs) for size, runs in ((tiny, 1), (tiny, 8), (measured, 8)))
    a_run = max(0.0, (eight - one) / 7)
    a_number = max(0.0, (large - eight) / 8 - measured.measurement_work * work) / measured.measured_numbers
    return Speed(
        float(work),
        float(normal),
        float(step),
        float(gathered),
        measurement=max(0.0, one - a_run),
        measured_run=a_run,
        measured_number=float(a_number),
        stop=_seconds_a_stop(tiny),
    )


def _size(samples: int, dimension: int, particles: int, noisy: bool = False, batch: int | None = None) -> FlowSize:
    return FlowSize(
        samples=samples, test_samples=samples, dimension=dimension, particles=particles, features=8, classes=3,
        batch=batch or samples, steps=0, measurements=0, noisy=noisy, compiled=True, dtype=torch.float32,
    )  # fmt: skip


def _snapshot(size: FlowSize, runs: int) -> Snapshot:
    ensemble = initial_ensemble(
        range(runs), particles=size.particles, dimension=size.dimension, features=size.features, classes=size.classes,
        scale_u=[size.dimension**-0.5] * runs, scale_a=[1.0] * runs, scale_w=[1.0] * runs, gamma=[1.0] * runs,
        activation=ACTIVATIONS["tanh"], dtype=size.dtype,
    )  # fmt: skip
    beta, decay = (torch.full((runs,), x, dtype=torch.float64) for x in (1e3 if size.noisy else math.inf, 1e-3))
    schedule = Schedule((Piece(0, _STEPS, 0.1),), 1)
    hyperparameters = Hyperparameters(torch.arange(runs), beta, decay, decay, (schedule,) * runs)
    batch = size.batch if size.batch < size.samples else None
    flow = Flow(ensemble, INTEGRATORS["exponential"], hyperparameters, batch, torch.zeros(runs, dtype=torch.int64))
    X = torch.linspace(-1, 1, runs * size.samples * size.dimension).reshape(runs, size.samples, size.dimension)
    Y = one_hot((torch.arange(size.samples) % size.classes).expand(runs, -1), size.classes, size.dtype)
    return Snapshot(ensemble, X, Y, X, Y, flow, 0, References([], []))  # no metric that is timed asks them


def _seconds_a_step(size: FlowSize) -> float:
    state = _snapshot(size, _RUNS)

    def steps(count: int) -> None:
        state.flow.advance(state.X, state.Y, 0, count)

    steps(1)
    count = max(1, int(_TIMED_SECONDS / _seconds(lambda: steps(3)) * 3))
    return min(_seconds(lambda: steps(count)) for _ in range(_REPEATS)) / (count * _RUNS)


def _seconds_a_stop(size: FlowSize) -> float:
    """What surrounds the steps between two stops: of such a size a step itself takes no time."""
    state = _snapshot(size, 1)
    return min(_seconds(lambda: state.flow.advance(state.X, state.Y, 0, 1)) for _ in range(_REPEATS))


def _seconds_a_measurement(size: FlowSize, runs: int) -> float:
    names = [name for name in MEASUREMENTS if not name.startswith(("oracle/", "data/"))]
    state = _snapshot(size, runs)

    def once() -> None:
        measure(replace(state), names)  # a snapshot that has found nothing yet

    once()
    return min(_seconds(once) for _ in range(_REPEATS))


def _seconds(of: Callable[[], None]) -> float:
    begin = time.perf_counter()
    of()
    return time.perf_counter() - begin
