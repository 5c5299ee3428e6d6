"""Measures how fast this machine trains, for :class:`~nc_sweeps.training.seconds.Speed`."""

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
from nc_sweeps.dynamics.stability import Stability
from nc_sweeps.metrics.statistics import one_hot
from nc_sweeps.models.mean_field import initialise_networks
from nc_sweeps.training.measurements import MEASUREMENTS, measure
from nc_sweeps.training.references import References
from nc_sweeps.training.seconds import Speed, count_work
from nc_sweeps.training.sizes import FlowSize
from nc_sweeps.training.snapshot import Snapshot

_STEPS = 2**40  # more than are ever taken
_TIMED_SECONDS = 0.05
_RUNS = 4  # runs that train together while steps are timed, as they do in a sweep
_REPEATS = 7  # the shortest time counts: other processes only add to it


def measure_speed() -> Speed:
    """Time steps and measurements of small ensembles on all threads, and solve for the constants; takes seconds."""
    tiny = _size(16, 4, 6)
    noisy, measured = _size(16, 64, 512, noisy=True), _size(256, 64, 512, noisy=True)
    batches = (_size(2048, 16, 6, batch=256), _size(512, 512, 6, batch=64))
    sizes = [tiny, _size(256, 8, 512), _size(256, 64, 512), _size(64, 512, 512), noisy, *batches]
    works = [count_work(size) for size in sizes]
    rows = [(work.step, work.normals, 1.0, work.gathered) for work in works]
    seconds = np.array([_time_step(size) for size in sizes])
    # Every row weighs the same in relative error.
    (work, normal, step, gathered), _ = nnls(np.array(rows) / seconds[:, None], np.ones(len(sizes)))
    one, eight, large = (_time_measurement(size, runs) for size, runs in ((tiny, 1), (tiny, 8), (measured, 8)))
    a_run = max(0.0, (eight - one) / 7)
    measurement = count_work(measured)
    a_number = max(0.0, (large - eight) / 8 - measurement.measurement * work) / measurement.measured_numbers
    return Speed(
        float(work),
        float(normal),
        float(step),
        float(gathered),
        measurement=max(0.0, one - a_run),
        measured_run=a_run,
        measured_number=float(a_number),
        pause=_time_pause(tiny),
    )


def _size(samples: int, dimension: int, particles: int, noisy: bool = False, batch: int | None = None) -> FlowSize:
    return FlowSize(
        samples=samples, test_samples=samples, dimension=dimension, particles=particles, features=8, classes=3,
        batch=batch or samples, steps=0, measurements=0, noisy=noisy, compiled=True, dtype=torch.float32,
    )  # fmt: skip


def _snapshot(size: FlowSize, runs: int) -> Snapshot:
    ensemble = initialise_networks(
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
    references = References([], [])  # no metric that is timed asks them
    return Snapshot(ensemble, X, Y, X, Y, flow, 0, references, Stability(flow))


def _time_step(size: FlowSize) -> float:
    """Return the seconds of a step of one of several runs."""
    state = _snapshot(size, _RUNS)

    def take(steps: int) -> None:
        state.flow.advance(state.X, state.Y, 0, steps)

    take(1)
    steps = max(1, int(_TIMED_SECONDS / _time(lambda: take(3)) * 3))
    return min(_time(lambda: take(steps)) for _ in range(_REPEATS)) / (steps * _RUNS)


def _time_pause(size: FlowSize) -> float:
    """Return the seconds of all that surrounds the steps between two pauses; steps of so small a size take no time."""
    state = _snapshot(size, 1)
    return min(_time(lambda: state.flow.advance(state.X, state.Y, 0, 1)) for _ in range(_REPEATS))


def _time_measurement(size: FlowSize, runs: int) -> float:
    """Return the seconds of a measurement of some runs."""
    names = [name for name in MEASUREMENTS if not name.startswith(("oracle/", "data/"))]
    state = _snapshot(size, runs)

    measure(state, names)
    state = replace(state, step=1)  # the first measurement takes longer
    return min(_time(lambda: measure(state, names)) for _ in range(_REPEATS))


def _time(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin
