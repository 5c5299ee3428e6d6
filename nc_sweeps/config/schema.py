"""The schema: every key of a run declared, typed and explained once.

Each key is one of

* ``shape``: runs that differ in it cannot share an ensemble;
* ``per_run``: it may differ from run to run within one ensemble;
* ``unsigned``: it says where things lie or what they are called and does not touch the numbers.
"""

import dataclasses
import fnmatch
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar

from nc_sweeps.metrics.catalogue import METRICS

ACTIVATION_NAMES = ("tanh", "erf", "sigmoid", "relu", "softplus")
INTEGRATOR_NAMES = ("euler_maruyama", "exponential")
LOSS_NAMES = ("mse", "cross_entropy")
HORIZON_UNITS = ("steps", "time", "epochs")
SPACINGS = ("log", "linear", "epochs")
CIFAR100_CLASSES = ("fine", "superclass")
# In the order of the numbers that the files of CIFAR-100 give them, which is that of the alphabet.
SUPERCLASSES = (
    "aquatic_mammals",
    "fish",
    "flowers",
    "food_containers",
    "fruit_and_vegetables",
    "household_electrical_devices",
    "household_furniture",
    "insects",
    "large_carnivores",
    "large_man-made_outdoor_things",
    "large_natural_outdoor_scenes",
    "large_omnivores_and_herbivores",
    "medium_mammals",
    "non-insect_invertebrates",
    "people",
    "reptiles",
    "small_mammals",
    "trees",
    "vehicles_1",
    "vehicles_2",
)
TRACKER_NAMES = ("none", "wandb")
TRACKING_MODES = ("auto", "online", "offline")
# Parameters stay in full precision: the half-precision "true" modes would round a step of the flow away. And float16
# has not the range for the gradient (γ/n) r Wᵀ of many samples; bfloat16 has.
PRECISIONS = ("32-true", "64-true", "bf16-mixed")


def _key(role: str, text: str) -> Any:
    return field(metadata={"role": role, "text": text})


def shape(text: str) -> Any:
    """Declare a key that splits ensembles."""
    return _key("shape", text)


def per_run(text: str) -> Any:
    """Declare a key that batches along the run axis."""
    return _key("per_run", text)


def unsigned(text: str) -> Any:
    """Declare a key that does not decide the numbers."""
    return _key("unsigned", text)


@dataclass
class DatasetConfig(ABC):
    """Keys that every data set has."""

    name: str = shape("which data set")
    seed: int = per_run("which samples are drawn; the run's seed unless set apart")
    imbalance: float = shape(
        "≥ 1: the share imbalance^(−k/(q−1)) of the training samples of class k = 0 … q−1 is kept; 1: all"
    )
    label_noise: float = per_run("probability with which a training label is replaced by another class, uniformly")

    @property
    @abstractmethod
    def class_count(self) -> int:
        """Number of classes q."""

    @property
    def sampled(self) -> bool:
        """Whether the seed has a say in which samples there are."""
        return True


@dataclass
class SyntheticConfig(DatasetConfig):
    """Keys of the data sets that are drawn from a known law."""

    classes: int = shape("number of classes q")
    dimension: int = shape("input dimension d ≥ q")
    train_per_class: int = shape("training samples of each class, m")
    test_per_class: int = shape("held-out samples of each class")

    @property
    def class_count(self) -> int:
        """Number of classes q."""
        return self.classes


@dataclass
class SeparableConfig(SyntheticConfig):
    """``dataset=separable``: a known margin (THEORY §8)."""

    margin: float = per_run("τ in (−1, 1/√q): separable above 0, overlapping below")


@dataclass
class GaussianConfig(SyntheticConfig):
    """``dataset=gaussian``: class means at a set distance, tails that overlap."""

    distance: float = per_run("between any two class means, in standard deviations")


@dataclass
class ReadConfig(DatasetConfig):
    """Keys of the data sets that are read."""

    train_per_class: int | None = shape("training samples of each class at random; null: all")
    test_per_class: int | None = shape("held-out samples of each class at random; null: all")
    unit_ball: bool = shape("divide by the largest norm, so that ‖x‖ ≤ 1")


@dataclass
class DigitsConfig(ReadConfig):
    """``dataset=digits``: scikit-learn's 8×8 digits."""

    @property
    def class_count(self) -> int:
        """Number of classes q."""
        return 10


@dataclass
class StoredConfig(ReadConfig):
    """Keys of the data sets whose files say what is for training and what is held out."""

    @property
    def sampled(self) -> bool:
        """Whether the seed has a say in which samples there are."""
        drawn = self.train_per_class is not None or self.test_per_class is not None
        return drawn or self.imbalance > 1 or self.label_noise > 0


@dataclass
class DownloadedConfig(StoredConfig):
    """Keys of the data sets that torchvision downloads."""

    data_dir: str = unsigned("folder to which torchvision downloaded it")

    @property
    def class_count(self) -> int:
        """Number of classes q."""
        return 10


@dataclass
class MnistConfig(DownloadedConfig):
    """``dataset=mnist`` and ``dataset=mnist_mod3``."""

    modulus: int | None = shape("relabel digit → digit mod modulus; null keeps the ten digits")

    @property
    def class_count(self) -> int:
        """Number of classes q."""
        return self.modulus or 10


@dataclass
class FashionMnistConfig(DownloadedConfig):
    """``dataset=fashion_mnist``."""


@dataclass
class Cifar10Config(DownloadedConfig):
    """``dataset=cifar10``."""


@dataclass
class Cifar100Config(DownloadedConfig):
    """``dataset=cifar100`` and ``dataset=cifar100_superclasses``."""

    classes: str = shape("fine (the 100) or superclass (the 20 of five each)")
    superclasses: list[str] = shape("of classes=superclass those that are kept, as classes 0 … q−1; []: all")

    @property
    def class_count(self) -> int:
        """Number of classes q."""
        return len(self.superclasses) or (100 if self.classes == "fine" else len(SUPERCLASSES))


@dataclass
class FeaturesConfig(StoredConfig):
    """``dataset=features``: a file of features and labels."""

    path: str = unsigned("of a file as nc-features writes it; see docs/data.md")
    classes: int = shape("number of classes q, as the file has it")
    digest: str = shape("SHA-256 of the file, which makes what it holds a part of the run")

    @property
    def class_count(self) -> int:
        """Number of classes q."""
        return self.classes


DATASETS: dict[str, type[DatasetConfig]] = {
    "separable": SeparableConfig,
    "gaussian": GaussianConfig,
    "digits": DigitsConfig,
    "mnist": MnistConfig,
    "fashion_mnist": FashionMnistConfig,
    "cifar10": Cifar10Config,
    "cifar100": Cifar100Config,
    "features": FeaturesConfig,
}


@dataclass
class WidthConfig:
    """Group ``width``."""

    particles: int = shape("number of particles N")


@dataclass
class SeparationConfig:
    """Group ``separation``: the knob that the synthetic data sets read."""

    margin: float = unsigned("τ of dataset=separable, read by dataset.margin")
    distance: float = unsigned("of dataset=gaussian, read by dataset.distance")


@dataclass
class ModelConfig:
    """Keys that every network has."""

    dynamics: ClassVar[str] = "momentum"

    name: str = shape("which network")

    @property
    def has_particles(self) -> bool:
        """Whether it is made of particles, so that runs train together and may be spread over processes."""
        return self.dynamics == "flow"


@dataclass
class MeanFieldConfig(ModelConfig):
    """``model=mean_field``: f(x) = γ Wᵀ mean_j a_j σ(u_jᵀx)."""

    dynamics: ClassVar[str] = "flow"

    features: int = shape("feature dimension p ≥ q; of a deep network with a linear layer before its head; null: none")
    activation: str = shape(f"σ: {', '.join(ACTIVATION_NAMES)}")
    gamma: float = per_run("output scale γ > 0")
    initial_scale_u: float = per_run("standard deviation of the first layer at the start")
    initial_scale_a: float = per_run("standard deviation of the second layer at the start")
    initial_scale_w: float = per_run("W₀ᵀW₀ = scale² I")
    train_head: bool = shape("false: W stays W₀")
    truncation: float = shape("radius R of the truncation τ_R of the second layer; inf: none")
    truncation_c0: float = shape("its constant C₀, 1 ≤ C₀ ≤ R/2")


@dataclass
class DeepConfig(ModelConfig):
    """``model=resnet18`` and ``model=vgg11``: layers of any kind and a linear head, F = HW."""

    features: int | None = shape(
        "feature dimension p ≥ q; of a deep network with a linear layer before its head; null: none"
    )


@dataclass
class MlpConfig(DeepConfig):
    """``model=mlp``."""

    hidden: list[int] = shape("widths of the hidden layers")


MODELS: dict[str, type[ModelConfig]] = {
    "mean_field": MeanFieldConfig,
    "mlp": MlpConfig,
    "resnet18": DeepConfig,
    "vgg11": DeepConfig,
}


@dataclass
class StepSizeChange:
    """One entry of ``dynamics.schedule``."""

    after: float = shape("fraction of the horizon in (0, 1) from which it holds")
    step_size: float = per_run("η from there on")


@dataclass
class DynamicsConfig:
    """Keys that every way of training has."""

    name: str = unsigned("what moves the network, which the network decides")
    batch_size: int | None = shape("samples a step; null: all")
    step_size: float = per_run("η: a particle moves by η times its mean-field gradient; the learning rate of momentum")
    schedule: list[StepSizeChange] = shape("changes of the step size, [{after, step_size}, …]")
    horizon: float = shape("length of the run, in horizon_unit")
    horizon_unit: str = shape(f"{', '.join(HORIZON_UNITS)} (time = Σ η)")


@dataclass
class FlowConfig(DynamicsConfig):
    """``dynamics.name=flow``: the flow (20) of a mean-field network and how it is discretised."""

    beta: float = per_run("inverse temperature β > 0; inf: no noise")
    stage_one: float = shape(
        "length of stage 1 (Algorithm 1), W held at W₀, in horizon_unit; 0: W moves from the start"
    )
    stage_one_distance: float | None = per_run(
        "end stage 1 as soon as ‖F − F*‖_F/√n, certified by the Gibbs oracle, is below it; null: at its full length"
    )
    lambda_rho: float = per_run("λ_ρ ≥ 0, weight decay of the particles")
    lambda_w: float = per_run("λ_W ≥ 0, weight decay of the head")
    integrator: str = shape(", ".join(INTEGRATOR_NAMES))


@dataclass
class MomentumConfig(DynamicsConfig):
    """``dynamics=momentum``: stochastic gradient descent of a deep network."""

    loss: str = shape(f"{', '.join(LOSS_NAMES)}: ‖F − Y‖²/(2n) with one-hot Y, or the cross-entropy of F")
    momentum: float = per_run("μ in [0, 1): v ← μv + ∇L + λθ, θ ← θ − ηv")
    weight_decay: float = per_run("λ ≥ 0, of all parameters θ")


DYNAMICS: dict[str, type[DynamicsConfig]] = {"flow": FlowConfig, "momentum": MomentumConfig}


#: Groups whose keys depend on what is chosen, by the name that the choice has.
CHOICES: dict[str, Mapping[str, type[Any]]] = {"dataset": DATASETS, "model": MODELS, "dynamics": DYNAMICS}


@dataclass
class MetricsConfig:
    """Group ``metrics``: what is measured and when."""

    include: list[str] = shape("names or patterns of metrics")
    exclude: list[str] = shape("names or patterns of metrics to leave out")
    spacing: str = shape(f"of the measurements: {', '.join(SPACINGS)}")
    points: int = shape("number of measurements (log, linear)")
    every: int = shape("epochs between measurements (epochs)")


@dataclass
class ComputeConfig:
    """Group ``compute``: on what it runs."""

    accelerator: str = unsigned("as Lightning's Trainer: auto, cpu, gpu, …")
    devices: int = unsigned("devices of a node over which the particles of a run are spread, a process each")
    nodes: int = unsigned("nodes over whose devices they are spread; see docs/concepts.md")
    precision: str = shape(f"as Lightning's Trainer: {', '.join(PRECISIONS)}")
    threads: int = unsigned("CPU threads of a process; 0: all cores given to it")
    memory: float | None = unsigned("GiB that this process may take, to which ensembles are cut; null: what is free")
    checkpoint_seconds: float = unsigned("least time between two checkpoints of a run")
    lease_seconds: float = unsigned("silence of a process after which others may take its runs over")

    @property
    def processes(self) -> int:
        """Over how many processes the particles of a run are spread."""
        return self.devices * self.nodes


@dataclass
class TrackingConfig:
    """Group ``tracking``: where runs are published, besides the store."""

    name: str = unsigned(f"{', '.join(TRACKER_NAMES)}: what follows the runs while they train")
    mode: str = unsigned(f"{', '.join(TRACKING_MODES)}; auto: online where there is an API key")
    project: str = unsigned("of Weights & Biases")
    entity: str | None = unsigned("user or team of Weights & Biases; null: the API key's default")
    job_type: str = unsigned("job type of the W&B runs")
    tags: list[str] = unsigned("tags of the W&B runs")
    model: bool = unsigned("publish the final state of a run as an artifact, too")


@dataclass
class FigureConfig:
    """Group ``figure``: the picture at the end of a sweep."""

    x: str = unsigned("time or epoch (along training), or the key against which last values are drawn")
    y: list[str] = unsigned("metrics")


@dataclass
class RunConfig:
    """One run: a point of a sweep."""

    name: str = unsigned("of the sweep; names its folder")
    seed: int = per_run("of initialisation, noise and mini-batches, ≥ 0")
    optimized_metric: str = unsigned("what nc-train returns to a Hydra sweeper")
    output_dir: str = unsigned("folder of all sweeps")
    data_dir: str = unsigned("folder of downloaded data sets")
    dataset: Any = _key("group", "the data set")
    width: WidthConfig = _key("group", "the number of particles")
    separation: SeparationConfig = _key("group", "how far apart the classes are")
    model: Any = _key("group", "the network")
    dynamics: Any = _key("group", "how it is trained")
    metrics: MetricsConfig = _key("group", "the measurements")
    compute: ComputeConfig = _key("group", "the hardware")
    tracking: TrackingConfig = _key("group", "where it is published")
    figure: FigureConfig = _key("group", "the picture of a sweep")


def selected_metrics(config: RunConfig) -> tuple[str, ...]:
    """Names of the metrics that a run measures, in the order of the catalogue; those that its network has not are left
    out.
    """
    return _matching(tuple(config.metrics.include), tuple(config.metrics.exclude), _kinds(config))


def _kinds(config: RunConfig) -> tuple[str, ...]:
    """Of metrics, those that the network has: :attr:`~nc_sweeps.metrics.catalogue.Metric.networks`."""
    if config.model.has_particles:
        return "any", "particles", "two layers", "targets"
    two_layers = ("two layers",) if config.model.features is not None else ()
    targets = ("targets",) if config.dynamics.loss == "mse" else ()
    return "any", "parameters", *two_layers, *targets


@cache
def _matching(include: tuple[str, ...], exclude: tuple[str, ...], kinds: tuple[str, ...]) -> tuple[str, ...]:
    def matches(name: str, patterns: tuple[str, ...]) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    return tuple(
        name
        for name, metric in METRICS.items()
        if metric.networks in kinds and matches(name, include) and not matches(name, exclude)
    )


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Every key of a config as (dotted name, value, role), in the order of declaration."""
    for key, role in _roles(type(config)):  # type: ignore[arg-type] # a type can be hashed
        value = getattr(config, key)
        if role == "group":
            yield from leaves(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and dataclasses.is_dataclass(value[0]):
            for index, entry in enumerate(value):
                yield from leaves(entry, f"{prefix}{key}.{index}.")
        else:
            yield prefix + key, value, role


@cache  # ten thousand runs are asked for their keys at once
def _roles(schema: type) -> tuple[tuple[str, str], ...]:
    return tuple((item.name, item.metadata["role"]) for item in dataclasses.fields(schema))


def fields_of(schema: Any, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    """Every key that a schema declares, as (dotted name, field)."""
    for item in dataclasses.fields(schema):
        if item.metadata["role"] == "group":
            if dataclasses.is_dataclass(item.type):
                yield from fields_of(item.type, f"{prefix}{item.name}.")
        else:
            yield prefix + item.name, item


def declared_keys() -> list[tuple[str, str, str]]:
    """Every key of every config as (dotted name, role, explanation): the configuration reference."""
    keys = dict(fields_of(RunConfig))
    for group, schemas in CHOICES.items():
        for schema in schemas.values():
            keys |= {f"{group}.{name}": item for name, item in fields_of(schema)}
    return [(name, item.metadata["role"], item.metadata["text"]) for name, item in sorted(keys.items())]
