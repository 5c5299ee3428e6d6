"""The configuration of a run: every key declared, typed, explained and checked once.

``conf/`` says what the values are, this module what they mean. :func:`parse` turns a composed Hydra config into a
:class:`RunConfig` or raises :class:`ConfigError` with one line; :func:`signature` names the run.

Each key is one of

* ``shape``: runs that differ in it cannot share an ensemble;
* ``per_run``: it may differ from run to run within one ensemble;
* ``place``: it says where things lie or what they are called and does not touch the numbers.
"""

import dataclasses
import difflib
import fnmatch
import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from nc_sweeps.errors import ConfigError, UserError
from nc_sweeps.metrics.catalogue import METRICS

ACTIVATION_NAMES = ("tanh", "sigmoid", "relu", "softplus")
INTEGRATOR_NAMES = ("euler_maruyama", "exponential")
HORIZON_UNITS = ("steps", "time", "epochs")
SPACINGS = ("log", "linear", "epochs")
# Parameters stay in full precision: the half-precision "true" modes would round a step of the flow away.
PRECISIONS = ("32-true", "64-true", "bf16-mixed", "16-mixed")

# Of longer lists of choices an error shows the nearest one only.
_LISTED = 8


def _key(role: str, text: str) -> Any:
    return field(metadata={"role": role, "text": text})


def shape(text: str) -> Any:
    """Declare a key that splits ensembles."""
    return _key("shape", text)


def per_run(text: str) -> Any:
    """Declare a key that batches along the run axis."""
    return _key("per_run", text)


def place(text: str) -> Any:
    """Declare a key that does not decide the numbers."""
    return _key("place", text)


@dataclass
class DatasetConfig(ABC):
    """Keys that every data set has."""

    name: str = shape("which data set")
    seed: int = per_run("which samples are drawn; the run's seed unless set apart")

    @property
    @abstractmethod
    def class_count(self) -> int:
        """Number of classes q."""


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
class ImageConfig(DatasetConfig):
    """Keys of the data sets that are read."""

    train_per_class: int | None = shape("training samples of each class at random; null: all")
    test_per_class: int | None = shape("held-out samples of each class at random; null: all")
    unit_ball: bool = shape("divide by the largest norm, so that ‖x‖ ≤ 1")


@dataclass
class DigitsConfig(ImageConfig):
    """``dataset=digits``: scikit-learn's 8×8 digits."""

    @property
    def class_count(self) -> int:
        """Number of classes q."""
        return 10


@dataclass
class MnistConfig(ImageConfig):
    """``dataset=mnist`` and ``dataset=mnist_mod3``."""

    data_dir: str = place("folder that holds MNIST/raw")
    modulus: int | None = shape("relabel digit → digit mod modulus; null keeps the ten digits")

    @property
    def class_count(self) -> int:
        """Number of classes q."""
        return self.modulus or 10


DATASETS: dict[str, type[DatasetConfig]] = {
    "separable": SeparableConfig,
    "gaussian": GaussianConfig,
    "digits": DigitsConfig,
    "mnist": MnistConfig,
}


@dataclass
class WidthConfig:
    """Group ``width``."""

    particles: int = shape("number of particles N")


@dataclass
class SeparationConfig:
    """Group ``separation``: the knob that the synthetic data sets read."""

    margin: float = place("τ of dataset=separable, read by dataset.margin")
    distance: float = place("of dataset=gaussian, read by dataset.distance")


@dataclass
class ModelConfig:
    """Group ``model``: f(x) = γ Wᵀ mean_j a_j σ(u_jᵀx)."""

    name: str = shape("mean_field")
    features: int = shape("feature dimension p ≥ q")
    activation: str = shape(f"σ: {', '.join(ACTIVATION_NAMES)}")
    gamma: float = per_run("output scale γ > 0")
    initial_scale_u: float = per_run("standard deviation of the first layer at the start")
    initial_scale_a: float = per_run("standard deviation of the second layer at the start")
    initial_scale_w: float = per_run("W₀ᵀW₀ = scale² I")
    train_head: bool = shape("false: W stays W₀")


@dataclass
class StepSizeChange:
    """One entry of ``dynamics.schedule``."""

    after: float = shape("fraction of the horizon in (0, 1) from which it holds")
    step_size: float = per_run("η from there on")


@dataclass
class DynamicsConfig:
    """Group ``dynamics``: the flow (20) and how it is discretised."""

    beta: float = per_run("inverse temperature β > 0; .inf: no noise")
    batch_size: int | None = shape("samples a step; null: all")
    step_size: float = per_run("η: a particle moves by η times its mean-field gradient")
    schedule: list[StepSizeChange] = shape("changes of the step size, [{after, step_size}, …]")
    horizon: float = shape("length of the run, in horizon_unit")
    horizon_unit: str = shape(f"{', '.join(HORIZON_UNITS)} (time = Σ η)")
    lambda_rho: float = per_run("λ_ρ ≥ 0, weight decay of the particles")
    lambda_w: float = per_run("λ_W ≥ 0, weight decay of the head")
    integrator: str = shape(", ".join(INTEGRATOR_NAMES))


@dataclass
class MetricsConfig:
    """Group ``metrics``: what is measured and when."""

    include: list[str] = shape("names or patterns of metrics")
    spacing: str = shape(f"of the measurements: {', '.join(SPACINGS)}")
    points: int = shape("number of measurements (log, linear)")
    every: int = shape("epochs between measurements (epochs)")


@dataclass
class ComputeConfig:
    """Group ``compute``: on what it runs."""

    accelerator: str = place("as Lightning's Trainer: auto, cpu, gpu, …")
    precision: str = shape(f"as Lightning's Trainer: {', '.join(PRECISIONS)}")
    threads: int = place("CPU threads; 0: all cores given to this process")
    checkpoint_seconds: float = place("least time between two checkpoints of a run")


@dataclass
class RunConfig:
    """One run: a point of a sweep."""

    name: str = place("of the sweep; names its folder")
    seed: int = per_run("of initialisation, noise and mini-batches, ≥ 0")
    optimized_metric: str = place("what nc-train returns to a Hydra sweeper")
    output_dir: str = place("folder of all sweeps")
    data_dir: str = place("folder of downloaded data sets")
    dataset: Any = _key("group", "the data set")
    width: WidthConfig = _key("group", "the number of particles")
    separation: SeparationConfig = _key("group", "how far apart the classes are")
    model: ModelConfig = _key("group", "the network")
    dynamics: DynamicsConfig = _key("group", "the flow")
    metrics: MetricsConfig = _key("group", "the measurements")
    compute: ComputeConfig = _key("group", "the hardware")


def parse(cfg: DictConfig, overrides: Sequence[str] = ()) -> RunConfig:
    """Turn a composed config into a checked :class:`RunConfig`.

    Args:
        cfg: composed by Hydra; a ``hydra`` node in it is ignored.
        overrides: what the user typed, to name overrides that have no effect.

    Raises:
        ConfigError: a key is unknown, has the wrong type, or a value that cannot be run.
    """
    tree = OmegaConf.create({key: cfg._get_node(key) for key in cfg if key != "hydra"})
    schema = OmegaConf.structured(RunConfig)
    schema.dataset = OmegaConf.structured(_dataset_schema(tree))
    try:
        config = OmegaConf.to_object(OmegaConf.merge(schema, tree))
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error, tree)) from error
    assert isinstance(config, RunConfig)
    _check(config)
    _check_overrides_matter(config, overrides)
    return config


def explain(error: BaseException, tree: DictConfig | None = None) -> str:
    """One line for an error of OmegaConf or Hydra: what is wrong, where, and the nearest key when one is unknown."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return str(cause)
        if isinstance(cause, ConfigAttributeError | ConfigKeyError):
            return _unknown_key(str(cause.full_key or cause.key), tree)
        if isinstance(cause, ValidationError):
            return f"{cause.full_key}: {str(cause.msg or cause).splitlines()[0]}"
        cause = cause.__cause__ or cause.__context__
    # Hydra's own errors end in a listing of its search path or a link that do not help here.
    text = str(error).split("Config search path")[0].split("See https://")[0]
    return " ".join(text.split())


def signature(config: RunConfig) -> str:
    """Hash of all that decides the numbers: the same signature, the same run."""
    return _digest({name: value for name, value, role in leaves(config) if role != "place"})


def ensemble_key(config: RunConfig) -> str:
    """Hash of all that decides shapes: runs of one key train as one ensemble.

    The step sizes may differ, the steps at which they change and the run ends may not.
    """
    keys = {name: value for name, value, role in leaves(config) if role == "shape"}
    if config.dynamics.horizon_unit == "time":
        keys |= {name: value for name, value, _ in leaves(config) if name.endswith("step_size")}
    return _digest(keys)


def selected_metrics(config: RunConfig) -> tuple[str, ...]:
    """Names of the metrics that a run measures, in the order of the catalogue."""
    patterns = config.metrics.include
    return tuple(name for name in METRICS if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))


def leaves(config: Any, prefix: str = "", role: str = "") -> Iterator[tuple[str, Any, str]]:
    """Every key of a config as (dotted name, value, role), in the order of declaration."""
    if dataclasses.is_dataclass(config):
        for item in dataclasses.fields(config):
            yield from leaves(getattr(config, item.name), f"{prefix}{item.name}.", item.metadata["role"])
    elif isinstance(config, list) and config and dataclasses.is_dataclass(config[0]):
        for index, entry in enumerate(config):
            yield from leaves(entry, f"{prefix}{index}.", role)
    else:
        yield prefix.rstrip("."), config, role


def _digest(keys: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()[:12]


def _dataset_schema(tree: DictConfig) -> type[DatasetConfig]:
    dataset = tree.get("dataset")
    name = dataset.get("name") if isinstance(dataset, DictConfig) else dataset
    if name not in DATASETS:
        _fail("dataset.name", name, _one_of(name, tuple(DATASETS)))
    return DATASETS[name]


def _unknown_key(name: str, tree: DictConfig | None) -> str:
    known = [key for key, _ in _declared(RunConfig)]
    if tree is not None and tree.get("dataset") is not None:
        known += [f"dataset.{key}" for key, _ in _declared(_dataset_schema(tree))]
    else:
        known += sorted({f"dataset.{key}" for schema in DATASETS.values() for key, _ in _declared(schema)})
    # A key may be mistyped in full, or be missing its group, or be a group.
    forms = {key.partition(".")[0]: key.partition(".")[0] for key in known}
    forms |= {key.rpartition(".")[2]: key for key in known} | {key: key for key in known}
    near = difflib.get_close_matches(name, forms, n=1)
    hint = f"the nearest key is {forms[near[0]]!r}" if near else "nc-train --help shows all keys"
    return f"unknown key {name!r}; {hint}"


def _declared(schema: Any, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    """Every key that a schema declares, as (dotted name, field)."""
    for item in dataclasses.fields(schema):
        if item.metadata["role"] == "group":
            if dataclasses.is_dataclass(item.type):
                yield from _declared(item.type, f"{prefix}{item.name}.")
        else:
            yield prefix + item.name, item


def declared_keys() -> list[tuple[str, str, str]]:
    """Every key of every config as (dotted name, role, explanation): the configuration reference."""
    keys = dict(_declared(RunConfig))
    for schema in DATASETS.values():
        keys |= {f"dataset.{name}": item for name, item in _declared(schema)}
    return [(name, item.metadata["role"], item.metadata["text"]) for name, item in sorted(keys.items())]


def _fail(key: str, value: Any, expected: str) -> NoReturn:
    raise ConfigError(f"{key}={value}: {expected}")


def _one_of(value: Any, choices: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(value), choices, n=1)
    if near and len(choices) > _LISTED:
        return f"did you mean {near[0]}?"
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"must be one of {', '.join(choices)}{hint}"


def _check(config: RunConfig) -> None:
    def require(holds: bool, key: str, expected: str) -> None:
        if not holds:
            value: Any = config
            for part in key.split("."):
                value = getattr(value, part)
            _fail(key, value, expected)

    def choice(key: str, value: str, choices: Sequence[str]) -> None:
        require(value in choices, key, _one_of(value, choices))

    def positive(key: str, value: float) -> None:
        require(0 < value < math.inf, key, "must be positive and finite")

    require(config.name != "" and "/" not in config.name, "name", "must be a plain folder name")
    require(0 <= config.seed < 2**63, "seed", "must be at least 0 and below 2⁶³")
    require(0 <= config.dataset.seed < 2**63, "dataset.seed", "must be at least 0 and below 2⁶³")
    require(config.width.particles >= 1, "width.particles", "must be at least 1")
    choice("compute.precision", config.compute.precision, PRECISIONS)
    require(config.compute.threads >= 0, "compute.threads", "must be at least 0 (0: all cores)")
    require(config.compute.checkpoint_seconds >= 0, "compute.checkpoint_seconds", "must be at least 0")

    _check_dataset(config.dataset, require)
    q = config.dataset.class_count

    model, dynamics, metrics = config.model, config.dynamics, config.metrics
    choice("model.name", model.name, ("mean_field",))
    require(model.features >= q, "model.features", f"must be at least the number of classes, {q}")
    choice("model.activation", model.activation, ACTIVATION_NAMES)
    for name in ("gamma", "initial_scale_w"):
        positive(f"model.{name}", getattr(model, name))
    for name in ("initial_scale_u", "initial_scale_a"):
        require(0 <= getattr(model, name) < math.inf, f"model.{name}", "must be at least 0 and finite")

    require(dynamics.beta > 0, "dynamics.beta", "must be positive (.inf: no noise)")
    batch_size = dynamics.batch_size
    require(batch_size is None or batch_size >= 1, "dynamics.batch_size", "must be at least 1 or null")
    positive("dynamics.step_size", dynamics.step_size)
    positive("dynamics.horizon", dynamics.horizon)
    choice("dynamics.horizon_unit", dynamics.horizon_unit, HORIZON_UNITS)
    choice("dynamics.integrator", dynamics.integrator, INTEGRATOR_NAMES)
    for name in ("lambda_rho", "lambda_w"):
        require(0 <= getattr(dynamics, name) < math.inf, f"dynamics.{name}", "must be at least 0 and finite")
    if dynamics.horizon_unit == "steps":
        require(dynamics.horizon == int(dynamics.horizon), "dynamics.horizon", "must be a whole number of steps")
    previous = 0.0
    for index, change in enumerate(dynamics.schedule):
        if not previous < change.after < 1:
            _fail(f"dynamics.schedule[{index}].after", change.after, f"must lie between {previous:g} and 1")
        if not 0 < change.step_size < math.inf:
            _fail(f"dynamics.schedule[{index}].step_size", change.step_size, "must be positive and finite")
        previous = change.after

    choice("metrics.spacing", metrics.spacing, SPACINGS)
    require(metrics.points >= 2, "metrics.points", "must be at least 2")
    require(metrics.every >= 1, "metrics.every", "must be at least 1")
    for pattern in metrics.include:
        if not fnmatch.filter(METRICS, pattern):
            _fail("metrics.include", pattern, f"no such metric; {_one_of(pattern, tuple(METRICS))}")
    if config.optimized_metric not in selected_metrics(config):
        _fail("optimized_metric", config.optimized_metric, _one_of(config.optimized_metric, selected_metrics(config)))


def _check_dataset(dataset: DatasetConfig, require: Any) -> None:
    if isinstance(dataset, SyntheticConfig):
        require(dataset.classes >= 2, "dataset.classes", "must be at least 2")
        require(
            dataset.dimension >= dataset.classes,
            "dataset.dimension",
            f"must be at least the number of classes, {dataset.classes}",
        )
    if isinstance(dataset, SeparableConfig):
        limit = 1 / math.sqrt(dataset.classes)
        require(
            -1 < dataset.margin < limit,
            "dataset.margin",
            f"must lie between -1 and 1/√q = {limit:.4g} for q = {dataset.classes} classes (set by separation.margin)",
        )
    if isinstance(dataset, GaussianConfig):
        require(
            0 <= dataset.distance < math.inf,
            "dataset.distance",
            "must be at least 0 and finite (set by separation.distance)",
        )
    if isinstance(dataset, MnistConfig):
        modulus = dataset.modulus
        require(modulus is None or 2 <= modulus <= 10, "dataset.modulus", "must lie in 2 … 10 or be null")
    for name in ("train_per_class", "test_per_class"):
        require(getattr(dataset, name) is None or getattr(dataset, name) >= 1, f"dataset.{name}", "must be at least 1")


def _check_overrides_matter(config: RunConfig, overrides: Sequence[str]) -> None:
    """Refuse a knob that the chosen data set does not read: every value of it would be the same run."""
    for knob in dataclasses.fields(SeparationConfig):
        asked = any(override.lstrip("+").startswith(f"separation.{knob.name}=") for override in overrides)
        if asked and not hasattr(config.dataset, knob.name):
            raise ConfigError(f"separation.{knob.name} has no effect on dataset={config.dataset.name}")
