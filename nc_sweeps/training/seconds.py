"""Time that training takes, predicted from the work of a run and the speed of the machine.

:mod:`nc_sweeps.training.calibration` measures the speed. The constants below say how much work an operation counts as:
rounded estimates, the same on every machine. ``python -m benchmarks cost`` shows how far the predictions are off.
"""

from dataclasses import dataclass

from nc_sweeps import kernels
from nc_sweeps.dynamics.stability import APPLICATIONS
from nc_sweeps.training.particle_cloud import KGD_PARTICLES
from nc_sweeps.training.sizes import DeepSize, FlowSize, Size

#: Least number of pauses during training at which progress is shown, checkpoints may be taken and signals are answered.
PAUSES = 100
#: Multiply-adds that take as long as an activation.
_ACTIVATION_WORK = 20
#: Numbers of a sample that are gathered in the time in which its position in a permutation is drawn.
_POSITION_WORK = 60
#: Times that a measurement visits each feature of each sample, in float64; matrix products count as visits that take as
#: long. Likewise for the kernel matrix of some particles, and for all particles.
_FEATURE_VISITS, _KERNEL_VISITS, _CLOUD_VISITS = 30, 15, 10
#: Multiply-adds in the product of a sample's features and their scatter matrix that take as long as a visit.
_SCATTER_WORK = 8


@dataclass(frozen=True)
class Work:
    """Work of the steps and measurements of a run.

    Args:
        step: multiply-adds of a step; an activation counts as the multiply-adds that take as long.
        gathered: numbers that a step gathers for a mini-batch.
        normals: normals that a step draws.
        measurement: multiply-adds of the passes that a measurement makes through the network.
        measured_numbers: float64 numbers that a measurement makes besides.
    """

    step: int
    gathered: int
    normals: int
    measurement: int
    measured_numbers: int


def count_work(size: Size) -> Work:
    """Count the work of a step and of a measurement of a run."""
    if isinstance(size, DeepSize):
        return _count_deep_work(size)
    assert isinstance(size, FlowSize)
    return _count_flow_work(size)


def _count_flow_work(size: FlowSize) -> Work:
    uses_batches = size.batch < size.samples
    activations = size.dimension + _ACTIVATION_WORK
    # The activations on the training set are formed again for the second pass, unless they are few enough to be kept.
    is_kept = size.samples * size.particles * size.dtype.itemsize <= kernels.whole_bytes()
    train = (1 if is_kept else 2) * activations + size.dimension + 2 * size.features + 2 * size.classes
    # So are those of the two passes in each application of the Gauss–Newton operator.
    train += (1 if is_kept else 2 * APPLICATIONS) * activations
    train += APPLICATIONS * (2 * size.dimension + 4 * size.classes)
    kernel = min(size.particles, KGD_PARTICLES) ** 2 if size.noisy else 0
    parameters = size.particles * (size.dimension + size.features)
    return Work(
        step=size.batch * size.particles * (2 * size.dimension + 3 * size.classes + _ACTIVATION_WORK),
        gathered=size.batch * (size.dimension + size.classes + _POSITION_WORK) if uses_batches else 0,
        normals=parameters if size.noisy else 0,
        measurement=size.particles * (size.samples * train + size.test_samples * (activations + size.features)),
        measured_numbers=_FEATURE_VISITS * (size.samples + size.test_samples) * size.features
        + _KERNEL_VISITS * kernel
        + _CLOUD_VISITS * parameters,
    )


def _count_deep_work(size: DeepSize) -> Work:
    visits = _FEATURE_VISITS + size.features // _SCATTER_WORK
    return Work(
        step=3 * size.batch * size.pass_work,  # forward, and backward for layers and for weights
        gathered=size.batch * (size.dimension + _POSITION_WORK) if size.batch < size.samples else 0,
        normals=0,
        # Forward and backward through the training set, forward once more, forward through the test set; and forward
        # through the training set before them if BatchNorm is recalibrated.
        measurement=((4 + size.recalibrated) * size.samples + size.test_samples) * size.pass_work,
        measured_numbers=(size.samples + size.test_samples) * size.features * visits,
    )


@dataclass(frozen=True)
class Speed:
    """Speed of this machine: seconds that each kind of work takes, on all threads together.

    Args:
        work: seconds of a multiply-add.
        normal: seconds of a normal.
        step: seconds of a step of a run, besides its work.
        gathered: seconds of a number that is gathered for a mini-batch.
        measurement: seconds of a measurement, besides its work, for any number of runs.
        measured_run: seconds that each run adds to that.
        measured_number: seconds of a float64 number that a measurement makes.
        pause: seconds of a pause during training, for any number of runs.
    """

    work: float
    normal: float
    step: float
    gathered: float
    measurement: float
    measured_run: float
    measured_number: float
    pause: float

    def predict_seconds(self, size: Size, runs: int) -> float:
        """Predict how long an ensemble trains until its end.

        Args:
            size: sizes of each of its runs.
            runs: R.
        """
        work = count_work(size)
        a_step = work.step * self.work + work.normals * self.normal + work.gathered * self.gathered + self.step
        numbers = work.measured_numbers * self.measured_number
        a_measured_run = self.measured_run + numbers + work.measurement * self.work
        measurements = size.measurements * (self.measurement + runs * a_measured_run)
        pauses = min(PAUSES, size.steps) + size.measurements
        return size.steps * runs * a_step + measurements + pauses * self.pause
