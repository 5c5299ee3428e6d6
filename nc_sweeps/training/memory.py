"""Memory that training takes, predicted from sizes, and memory that there is.

The numbers of arrays below were counted in the code that they speak of. ``tests/training/test_memory.py`` compares the
predictions with the resident set of processes that train, and allows 30 %.
"""

from pathlib import Path

import psutil
import torch

from nc_sweeps import kernels
from nc_sweeps.config import RunConfig
from nc_sweeps.models.first_layer import KEPT_ELEMENTS
from nc_sweeps.training.deep import AT_ONCE
from nc_sweeps.training.sizes import DeepSize, FlowSize, Size

#: Bytes of a float64 number.
_DOUBLE = 8
#: Particle-sized arrays of a measurement: gradients without and with weight decay, and those that a direction gives.
_MEASURED_ARRAYS = 3
#: Feature-sized float64 arrays of a measurement, for training and test samples each: features, centred features, an
#: array of the certificate, distances to class means.
_FEATURE_ARRAYS = 4
#: Particle-sized arrays of a step in PyTorch's operations: gradients, increments, noise, the words of the noise.
_STEP_ARRAYS = 4
#: Particle-sized float64 arrays where the initial state of a run is drawn and where its cloud is measured; runs take
#: turns there.
_CLOUD_ARRAYS = 2
#: Arrays of the size of a deep network's parameters while samples pass through it: parameters, their gradients and
#: momenta, the gradient that a measurement adds up, the gradient of these samples.
_PASSING_ARRAYS = 5
#: The same after all samples have passed: also the sum in one piece, its parts, and these with the weight decay.
_PASSED_ARRAYS = 8
#: Float64 scatter matrices of the features: two sets of samples, one of which is merged with a batch.
_SCATTER_ARRAYS = 6
#: Float64 arrays of the size of the training inputs while their margin is found.
_MARGIN_ARRAYS = 4
#: Bytes that loops and the kernel gradient discrepancy take at any size; an estimate.
_FIXED_BYTES = 4 * 2**20
#: Ratio of the memory that a process takes to the arrays that it holds; an estimate from above. Allocators keep some of
#: what was freed, and how much depends on the order in which threads free it: the same ensemble took 240 to 450 MiB.
_ALLOCATOR_RATIO = 1.4
#: Bytes of the libraries that training loads when it first uses them; an estimate.
_FIRST_USE_BYTES = 64 * 2**20


def predict_held_bytes(size: Size, runs: int, threads: int) -> int:
    """Predict how many bytes the arrays of some runs fill at most.

    Args:
        size: sizes of each of the runs.
        runs: R, which train at once.
        threads: number of threads of the CPU.
    """
    if isinstance(size, DeepSize):
        return _FIXED_BYTES + runs * _predict_deep_bytes(size)
    assert isinstance(size, FlowSize)
    return _FIXED_BYTES + _predict_flow_bytes(size, runs, threads)


def predict_peak_bytes(size: Size, runs: int, threads: int) -> int:
    """Predict how many bytes a process takes for some runs, besides those that it took before.

    Arguments are those of :func:`predict_held_bytes`.
    """
    return int(_ALLOCATOR_RATIO * predict_held_bytes(size, runs, threads))


def _predict_flow_bytes(size: FlowSize, runs: int, threads: int) -> int:
    width = size.dtype.itemsize
    particles = size.particles * (size.dimension + size.features) * width
    samples = size.samples + size.test_samples
    # Targets are held in float64 and in the type of the network.
    data = samples * (size.dimension * width + size.classes * (width + _DOUBLE))
    features = samples * (size.features + 2 * size.classes) * _DOUBLE
    measurement = runs * (_MEASURED_ARRAYS * particles + _FEATURE_ARRAYS * features)
    measurement += _CLOUD_ARRAYS * particles * _DOUBLE // width
    shape = (size.samples, size.dimension, size.particles, size.features, size.classes)
    if size.compiled:
        step = min(threads, runs) * kernels.step_bytes(*shape, size.dtype)
    else:
        step = runs * _STEP_ARRAYS * particles + min(runs * size.batch * size.particles, KEPT_ELEMENTS) * width
    return runs * (particles + data) + max(step, measurement)


def _predict_deep_bytes(size: DeepSize) -> int:
    width = size.dtype.itemsize
    data = (size.samples + size.test_samples) * size.dimension * width
    parameters = size.parameters * width
    scatter = _SCATTER_ARRAYS * size.features**2 * _DOUBLE
    passing = _PASSING_ARRAYS * parameters + max(size.batch, min(AT_ONCE, size.samples)) * size.activations
    margin = _PASSING_ARRAYS * parameters + _MARGIN_ARRAYS * size.samples * size.dimension * _DOUBLE
    return data + max(passing + scatter, _PASSED_ARRAYS * parameters + scatter, margin)


def find_budget_bytes(config: RunConfig) -> int:
    """Return how many bytes the next ensemble may take in this process."""
    if config.compute.memory is not None:
        return int(config.compute.memory * 2**30) - psutil.Process().memory_info().rss - _FIRST_USE_BYTES
    if config.compute.accelerator != "cpu" and torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return free
    return find_available_bytes() // config.compute.devices


def find_available_bytes() -> int:
    """Return how many bytes this process may still take of the machine, and of its control group if it is in one."""
    free = psutil.virtual_memory().available
    for limit, usage in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            free = min(free, int(Path(limit).read_text()) - int(Path(usage).read_text()))
        except (OSError, ValueError):  # no such group, or one without a limit
            continue
    return max(free, 0)
