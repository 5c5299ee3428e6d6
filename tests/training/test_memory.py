"""Memory that training takes is predicted within 30 %."""

import json
import os
import subprocess
import sys

import pytest

from nc_sweeps.data import load
from nc_sweeps.dynamics.schedule import Schedule
from nc_sweeps.training.memory import find_available_bytes, predict_peak_bytes
from nc_sweeps.training.sizes import Size
from tests.configs import TINY, config_of
from tests.processes import PATIENCE

#: Trains ensembles one after another and prints the bytes that each held at most, and the prediction.
_MEASURE = """
import gc, json, sys
from pathlib import Path
from nc_sweeps.data import load
from nc_sweeps.training.ensembles import LoadedRun, cut_into_ensembles
from nc_sweeps.training.memory import predict_held_bytes
from tests.configs import config_of
from tests.doubles import MemoryRecord

def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))

def training(*configs):
    (found,) = cut_into_ensembles([LoadedRun(config, load(config.dataset), MemoryRecord()) for config in configs], None)
    return found

for count, *overrides in json.loads(sys.argv[1]):
    measured = training(*(config_of(f"seed={seed}", *overrides) for seed in range(count)))
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    measured.train()
    print(json.dumps([resident("VmHWM") - before, predict_held_bytes(measured.size, count, 2)]))
"""


def measure_and_predict(*trainings):
    """Return the bytes taken and predicted of each training, given as the number of its runs and their overrides."""
    command = [sys.executable, "-c", _MEASURE, json.dumps(trainings)]
    # Large arrays go back to the system when they are freed: the process takes what it holds, every time the same.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**17)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=PATIENCE)
    return [json.loads(line) for line in done.stdout.splitlines()[-len(trainings) :]]


SHORT = ["dynamics.horizon=2", "dynamics.horizon_unit=steps", "metrics.points=2", "compute.threads=2"]


@pytest.mark.processes
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the resident set from /proc")
@pytest.mark.parametrize(
    ("runs", "overrides"),
    [
        (4, ["width.particles=16384", "dataset.dimension=256", "dynamics=noisy_gradient_flow"]),
        (1, ["width.particles=16384", "dataset.dimension=1024", "dynamics=noisy_gradient_flow"]),
        (8, ["width.particles=64", "dataset.dimension=64", "dataset.train_per_class=10000"]),
        (8, ["width.particles=8192", "dataset.dimension=64", "model.activation=erf", "dynamics=noisy_gradient_flow"]),
    ],
    ids=["many wide", "one wide", "many samples", "not compiled"],
)
def test_memory_is_predicted(runs, overrides):
    """Within 30 % of what ensembles of some hundred MiB hold."""
    # The first training loads libraries: it does not count.
    _, (taken, predicted) = measure_and_predict([1, *TINY], [runs, *overrides, *SHORT])
    assert taken > 150 * 2**20
    assert 0.7 < predicted / taken < 1.3, (taken, predicted)


@pytest.mark.processes
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the resident set from /proc")
def test_memory_of_deep_networks_is_predicted(mnist_dir):
    """Within 30 %: a wide network, two of convolutions, and data whose margin takes more than the network."""
    few = ["dataset.train_per_class=1", "dataset.test_per_class=1", "dynamics.batch_size=5"]
    some = ["dataset.train_per_class=13", "dataset.test_per_class=1"]
    cases = [
        ["model=mlp", "model.hidden=[2048,2048]", *some],
        ["model=resnet18", *some],
        ["model=vgg11", *some],
        [
            "model=mlp",
            "dataset.train_per_class=400",
            "dataset.test_per_class=1",
            "metrics.include=[data/margin]",
            "optimized_metric=data/margin",
        ],
    ]
    short = [1, "dynamics.horizon=1", "metrics.points=2", "compute.threads=1"]
    mnist = ["dataset=mnist", f"data_dir={mnist_dir.absolute()}"]
    first = [[*short, f"model={name}", "dataset=digits", *few] for name in ("mlp", "resnet18", "vgg11")]
    measured = measure_and_predict(*first, *([*short, *mnist, *case] for case in cases))[len(first) :]
    assert all(taken > 80 * 2**20 for taken, _ in measured)
    assert all(0.7 < predicted / taken < 1.3 for taken, predicted in measured), measured


def test_more_of_anything_takes_more():
    def predicted(runs=4, threads=2, **changes):
        config = config_of(*(f"{key}={value}" for key, value in changes.items()))
        data = load(config.dataset)
        schedule = Schedule.of(config.dynamics, len(data.train.labels))
        return predict_peak_bytes(Size.of(config, data, schedule, 0), runs, threads)

    base = predicted()
    assert predicted(runs=5) > base
    assert predicted(**{"width.particles": 4096}) > base
    assert predicted(**{"dataset.train_per_class": 500}) > base
    assert predicted(**{"dataset.test_per_class": 500}) > base
    assert predicted(**{"compute.precision": "64-true"}) > base


def test_there_is_memory():
    assert 2**27 < find_available_bytes() < 2**50
