"""What an ensemble costs, told from its sizes before it is trained: bytes and seconds."""

import math
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from nc_sweeps import kernels
from nc_sweeps.config import RunConfig
from nc_sweeps.data import Dataset
from nc_sweeps.dynamics.schedule import Schedule
from nc_sweeps.models.first_layer import KEPT_ELEMENTS
from nc_sweeps.training.snapshot import KGD_PARTICLES

#: Bytes of float64.
_DOUBLE = 8
#: Particle-sized arrays of a measurement: gradients, and what they are made from.
_MEASURED_ARRAYS = 2
#: Feature-sized float64 arrays of a measurement, for training and test samples each: features, what centring and the
#: certificate make of them, distances to class means.
_FEATURE_ARRAYS = 4
#: Particle-sized arrays of a step in PyTorch's operations: gradients, increments, noise, the words it is made from.
_STEP_ARRAYS = 4
#: Particle-sized float64 arrays of one run at a time, where its initial state is drawn and where its cloud is measured.
_CLOUD_ARRAYS = 2
#: Multiply-adds that take as long as an activation.
_ACTIVATION_WORK = 20
#: Numbers of a sample that take as long to gather as its place in a permutation to draw.
_PLACE_WORK = 60
#: Bytes of activations that a measurement forms once and not twice: ``kWholeBytes`` of ``flow.cpp``.
_WHOLE_BYTES = 12 * 2**20
#: Times that a measurement goes through features, and through the kernel of some particles and through all of them, in
#: float64, matrix products counted as what takes as long.
_FEATURE_VISITS, _KERNEL_VISITS, _CLOUD_VISITS = 30, 15, 10
#: What loops and the kernel gradient discrepancy take whatever the sizes.
_ALWAYS = 4 * 2**20
#: What a process takes for what it holds: allocators keep some of what was freed, how much depends on how threads meet.
_KEPT = 1.4


@dataclass(frozen=True)
class Size:
    """Sizes of a run.

    Args:
        samples, test_samples: of the training and of the test set.
        dimension, particles, features, classes: d, those of the N that one process holds, p, q.
        batch: samples a step.
        steps: steps still to take.
        measurements: how often the run is measured on the way.
        noisy: whether particles diffuse.
        compiled: whether the compiled step trains it.
        dtype: of the parameters.
    """

    samples: int
    test_samples: int
    dimension: int
    particles: int
    features: int
    classes: int
    batch: int
    steps: int
    measurements: int
    noisy: bool
    compiled: bool
    dtype: torch.dtype

    @classmethod
    def of(cls, config: RunConfig, data: Dataset, schedule: Schedule, step: int) -> "Size":
        """Sizes of a run that stands at a step."""
        samples, dimension = data.train.x.shape
        dtype = torch.float64 if config.compute.precision == "64-true" else torch.float32
        mixed = config.compute.precision == "bf16-mixed"
        on_cpu = config.compute.accelerator == "cpu" or not torch.cuda.is_available()
        return cls(
            samples=samples,
            test_samples=len(data.test.labels),
            dimension=dimension,
            particles=math.ceil(config.width.particles / config.compute.processes),
            features=config.model.features,
            classes=data.classes,
            batch=min(config.dynamics.batch_size or samples, samples),
            steps=schedule.total - step,
            measurements=sum(measured > step for measured in schedule.measurements(config.metrics)),
            noisy=math.isfinite(config.dynamics.beta),
            compiled=on_cpu and not mixed and kernels.compiled(config.model.activation, torch.empty(0, dtype=dtype)),
            dtype=dtype,
        )

    @property
    def particle_bytes(self) -> int:
        """Of an array as large as the particles."""
        return self.particles * (self.dimension + self.features) * self.dtype.itemsize

    @property
    def data_bytes(self) -> int:
        """Of training and test set, with their targets in float64 beside those in the network's type."""
        width = self.dtype.itemsize
        row = self.dimension * width + self.classes * (width + _DOUBLE)
        return (self.samples + self.test_samples) * row

    def peak_bytes(self, runs: int, threads: int) -> int:
        """Memory that a process takes for an ensemble of so many runs, without what it took before."""
        return int(_KEPT * self.held_bytes(runs, threads))

    def held_bytes(self, runs: int, threads: int) -> int:
        """Memory that the arrays of an ensemble of so many runs fill at most.

        Args:
            runs: R.
            threads: of the processor.
        """
        features = (self.samples + self.test_samples) * (self.features + 2 * self.classes) * _DOUBLE
        shape = (self.samples, self.dimension, self.particles, self.features, self.classes)
        passes = min(threads, runs) * kernels.step_bytes(*shape, self.dtype) if self.compiled else 0
        measurement = runs * (_MEASURED_ARRAYS * self.particle_bytes + _FEATURE_ARRAYS * features)
        measurement += _CLOUD_ARRAYS * self.particle_bytes * _DOUBLE // self.dtype.itemsize
        step = 0
        if not self.compiled:
            step = runs * _STEP_ARRAYS * self.particle_bytes
            step += min(runs * self.batch * self.particles, KEPT_ELEMENTS) * self.dtype.itemsize
        return _ALWAYS + runs * (self.particle_bytes + self.data_bytes) + max(passes, measurement, step)

    @property
    def step_work(self) -> int:
        """Multiply-adds of a step of one run, its activations counted as what takes as long."""
        return self.batch * self.particles * (2 * self.dimension + 3 * self.classes + _ACTIVATION_WORK)

    @property
    def gathered(self) -> int:
        """Numbers that a step of one run gathers for a mini-batch."""
        return self.batch * (self.dimension + self.classes + _PLACE_WORK) if self.batch < self.samples else 0

    @property
    def normals(self) -> int:
        """Numbers that a step of one run draws."""
        return self.particles * (self.dimension + self.features) if self.noisy else 0

    @property
    def measurement_work(self) -> int:
        """Multiply-adds of the passes that a measurement of one run makes: over the training set one for features and
        gradients and one for what the features see of these, and one over the test set.
        """
        activations = self.dimension + _ACTIVATION_WORK
        formed = 1 if self.samples * self.particles * self.dtype.itemsize <= _WHOLE_BYTES else 2
        train = formed * activations + self.dimension + 2 * self.features + 2 * self.classes
        pairs = self.samples * train + self.test_samples * (activations + self.features)
        return self.particles * pairs

    @property
    def measured_numbers(self) -> int:
        """Float64 numbers that a measurement of one run makes besides."""
        features = (self.samples + self.test_samples) * self.features
        kernel = min(self.particles, KGD_PARTICLES) ** 2 if self.noisy else 0
        cloud = self.particles * (self.dimension + self.features)
        return _FEATURE_VISITS * features + _KERNEL_VISITS * kernel + _CLOUD_VISITS * cloud


@dataclass(frozen=True)
class Speed:
    """Seconds on this machine, all its threads together.

    Args:
        work: of a multiply-add.
        normal: of a normal.
        step: of a step of a run besides.
        gathered: of a number gathered for a mini-batch.
        measurement: of a measurement besides its passes, whatever the runs.
        measured_run: of a run in a measurement besides.
        measured_number: of a float64 number that a measurement makes.
    """

    work: float
    normal: float
    step: float
    gathered: float
    measurement: float
    measured_run: float
    measured_number: float

    def seconds(self, size: Size, runs: int) -> float:
        """Time to train an ensemble to the end."""
        a_step = size.step_work * self.work + size.normals * self.normal + size.gathered * self.gathered + self.step
        numbers = size.measured_numbers * self.measured_number
        a_measured_run = self.measured_run + numbers + size.measurement_work * self.work
        return size.steps * runs * a_step + size.measurements * (self.measurement + runs * a_measured_run)


def available_bytes() -> int:
    """Memory that this process may still take: of the machine, and of the control group that a scheduler put it in."""
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


def budget_bytes(config: RunConfig) -> int:
    """Memory that the next ensemble may take in this process."""
    if config.compute.memory is not None:
        return int(config.compute.memory * 2**30) - psutil.Process().memory_info().rss
    if config.compute.accelerator != "cpu" and torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return free
    return available_bytes() // config.compute.devices
