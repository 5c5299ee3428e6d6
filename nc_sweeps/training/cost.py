"""What training costs, told from sizes before it begins: bytes and seconds."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from nc_sweeps import kernels
from nc_sweeps.config import RunConfig
from nc_sweeps.data import Dataset
from nc_sweeps.dynamics.schedule import Schedule
from nc_sweeps.errors import ConfigError
from nc_sweeps.models.first_layer import KEPT_ELEMENTS
from nc_sweeps.training.deep import AT_ONCE, network_of
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
#: Arrays as large as a deep network's parameters while samples are in it: these, their gradients and momenta, the
#: gradient that a measurement adds up and that of these samples; and when all have passed, with the sum in one piece,
#: its parts, and these with the weight decay.
_PASSING_ARRAYS, _PASSED_ARRAYS = 5, 8
#: Float64 scatter matrices of the features of two sets, one of which is being merged with that of a batch.
_SCATTER_ARRAYS = 6
#: Float64 arrays as large as the training inputs, of which the margin is found.
_MARGIN_ARRAYS = 4
#: Products of a row of a scatter matrix that take as long as a visit of a feature.
_SCATTER_WORK = 8
#: Stops on the way in which progress is shown, checkpoints may be taken and signals are answered: at least so many.
STOPS = 100
#: Bytes of activations that a measurement forms once and not twice: ``kWholeBytes`` of ``flow.cpp``.
_WHOLE_BYTES = 12 * 2**20
#: Times that a measurement goes through features, and through the kernel of some particles and through all of them, in
#: float64, matrix products counted as what takes as long.
_FEATURE_VISITS, _KERNEL_VISITS, _CLOUD_VISITS = 30, 15, 10
#: What loops and the kernel gradient discrepancy take whatever the sizes.
_ALWAYS = 4 * 2**20
#: What a process takes for what it holds: allocators keep some of what was freed, how much depends on how threads meet.
_KEPT = 1.4
#: What libraries will load when they are first used in training.
_FIRST_USE = 64 * 2**20


@dataclass(frozen=True)
class Size(ABC):
    """What decides the cost of a run.

    Args:
        samples, test_samples: of the training and of the test set.
        dimension, features, classes: d, p, q.
        batch: samples a step.
        steps: still to take.
        measurements: still to make.
        dtype: of the parameters.

    Attributes:
        step_work: multiply-adds of a step, its activations counted as what takes as long.
        gathered: numbers that a step gathers for a mini-batch.
        normals: numbers that a step draws.
        measurement_work: multiply-adds of the passes that a measurement makes.
        measured_numbers: float64 numbers that a measurement makes besides.
    """

    samples: int
    test_samples: int
    dimension: int
    features: int
    classes: int
    batch: int
    steps: int
    measurements: int
    dtype: torch.dtype

    @staticmethod
    def of(config: RunConfig, data: Dataset, schedule: Schedule, step: int) -> "Size":
        """Sizes of a run that stands at a step.

        Raises:
            ConfigError: the network is not for such samples or such batches.
        """
        samples, dimension = data.train.x.shape
        common = {
            "samples": samples,
            "test_samples": len(data.test.labels),
            "dimension": dimension,
            "classes": data.classes,
            "batch": min(config.dynamics.batch_size or samples, samples),
            "steps": schedule.total - step,
            "measurements": sum(measured > step for measured in schedule.measurements(config.metrics)),
            "dtype": torch.float64 if config.compute.precision == "64-true" else torch.float32,
        }
        return _flow_size(config, common) if config.model.has_particles else _deep_size(config, data, common)

    @abstractmethod
    def held_bytes(self, runs: int, threads: int) -> int:
        """Memory that the arrays of so many runs that train at once fill at most.

        Args:
            runs: R.
            threads: of the processor.
        """

    def peak_bytes(self, runs: int, threads: int) -> int:
        """Memory that a process takes for so many runs at once, without what it took before."""
        return int(_KEPT * self.held_bytes(runs, threads))

    @property
    @abstractmethod
    def step_work(self) -> int: ...  # noqa: D102 (see above)

    @property
    @abstractmethod
    def gathered(self) -> int: ...  # noqa: D102

    @property
    @abstractmethod
    def normals(self) -> int: ...  # noqa: D102

    @property
    @abstractmethod
    def measurement_work(self) -> int: ...  # noqa: D102

    @property
    @abstractmethod
    def measured_numbers(self) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class FlowSize(Size):
    """Sizes of a run of particles.

    Args:
        particles: those of the N that one process holds.
        noisy: whether particles diffuse.
        compiled: whether the compiled step trains it.
    """

    particles: int
    noisy: bool
    compiled: bool

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

    def held_bytes(self, runs: int, threads: int) -> int:
        """See :class:`Size`."""
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
class DeepSize(Size):
    """Sizes of a run of a deep network.

    Args:
        parameters: of the network.
        activations: bytes that a sample leaves in the network until its gradient is known.
        pass_work: multiply-adds of a sample's way to its scores.
    """

    parameters: int
    activations: int
    pass_work: int

    def held_bytes(self, runs: int, threads: int) -> int:
        """See :class:`Size`."""
        width = self.dtype.itemsize
        data = (self.samples + self.test_samples) * self.dimension * width
        parameters = self.parameters * width
        scatter = _SCATTER_ARRAYS * self.features**2 * _DOUBLE
        passing = _PASSING_ARRAYS * parameters + max(self.batch, min(AT_ONCE, self.samples)) * self.activations
        margin = _PASSING_ARRAYS * parameters + _MARGIN_ARRAYS * self.samples * self.dimension * _DOUBLE
        return _ALWAYS + runs * (data + max(passing + scatter, _PASSED_ARRAYS * parameters + scatter, margin))

    @property
    def step_work(self) -> int:
        """Of a pass forward, and of two backward, for layers and for weights."""
        return 3 * self.batch * self.pass_work

    @property
    def gathered(self) -> int:
        """Where a step does not take all samples."""
        return self.batch * (self.dimension + _PLACE_WORK) if self.batch < self.samples else 0

    @property
    def normals(self) -> int:
        """None."""
        return 0

    @property
    def measurement_work(self) -> int:
        """Of a pass through the training set forward and backward, of another one forward, and of one through the test
        set.
        """
        return (4 * self.samples + self.test_samples) * self.pass_work

    @property
    def measured_numbers(self) -> int:
        """Features, by each of which a row of their scatter is multiplied."""
        return (self.samples + self.test_samples) * self.features * (_FEATURE_VISITS + self.features // _SCATTER_WORK)


def _flow_size(config: RunConfig, common: dict[str, Any]) -> FlowSize:
    mixed = config.compute.precision == "bf16-mixed"
    on_cpu = config.compute.accelerator == "cpu" or not torch.cuda.is_available()
    like = torch.empty(0, dtype=common["dtype"])
    return FlowSize(
        **common,
        features=config.model.features,
        particles=math.ceil(config.width.particles / config.compute.processes),
        noisy=math.isfinite(config.dynamics.beta),
        compiled=on_cpu and not mixed and kernels.supports(config.model.activation, like),
    )


def _deep_size(config: RunConfig, data: Dataset, common: dict[str, Any]) -> DeepSize:
    network = network_of(config.model, data)
    samples, batch = common["samples"], common["batch"]
    if 1 in {batch, samples % batch} and any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()):
        raise ConfigError(
            f"dynamics.batch_size={config.dynamics.batch_size}: leaves a batch of one of {samples} samples, of "
            f"which the BatchNorm of model={config.model.name} knows no variance"
        )
    work, activations = _of_a_sample(network.to(common["dtype"]), common["dimension"])
    return DeepSize(
        **common,
        features=network.head.in_features,
        parameters=sum(Z.numel() for Z in network.parameters()),
        activations=activations,
        pass_work=work,
    )


def _of_a_sample(network: nn.Module, dimension: int) -> tuple[int, int]:
    """Multiply-adds of the way forward, and bytes that are kept for the way back.

    Args:
        network: on the device ``meta``, where nothing is computed.
        dimension: d.
    """
    samples = 2  # of one alone BatchNorm knows no variance
    weights = {Z.untyped_storage()._cdata for Z in network.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(Z: Tensor) -> Tensor:
        storage = Z.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return Z

    X = torch.empty(samples, dimension, dtype=next(network.parameters()).dtype, device="meta")
    with FlopCounterMode(display=False) as counter, saved_tensors_hooks(keep, lambda Z: Z):
        network(X)
    bytes_kept = sum(storage.nbytes() for storage in kept.values())
    return counter.get_total_flops() // 2 // samples, bytes_kept // samples


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
        stop: of a stop on the way, whatever the runs.
    """

    work: float
    normal: float
    step: float
    gathered: float
    measurement: float
    measured_run: float
    measured_number: float
    stop: float

    def seconds(self, size: Size, runs: int) -> float:
        """Time to train an ensemble to the end."""
        a_step = size.step_work * self.work + size.normals * self.normal + size.gathered * self.gathered + self.step
        numbers = size.measured_numbers * self.measured_number
        a_measured_run = self.measured_run + numbers + size.measurement_work * self.work
        measurements = size.measurements * (self.measurement + runs * a_measured_run)
        stops = min(STOPS, size.steps) + size.measurements
        return size.steps * runs * a_step + measurements + stops * self.stop


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
        return int(config.compute.memory * 2**30) - psutil.Process().memory_info().rss - _FIRST_USE
    if config.compute.accelerator != "cpu" and torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return free
    return available_bytes() // config.compute.devices
