"""The checks that tell whether a configuration can be run."""

import difflib
import fnmatch
import math
from collections.abc import Sequence
from functools import cache, reduce
from typing import Any

from nc_sweeps.config.datasets import (
    CIFAR100_CLASSES,
    SUPERCLASSES,
    Cifar100Config,
    FeaturesConfig,
    GaussianConfig,
    MnistConfig,
    SeparableConfig,
    SyntheticConfig,
)
from nc_sweeps.config.dynamics import (
    DYNAMICS,
    HORIZON_UNITS,
    INTEGRATOR_NAMES,
    LOSS_NAMES,
    FlowConfig,
    MomentumConfig,
)
from nc_sweeps.config.keys import list_values
from nc_sweeps.config.models import (
    ACTIVATION_NAMES,
    BATCH_NORM_STATISTICS,
    MODELS,
    ConvolutionalConfig,
    MeanFieldConfig,
    MlpConfig,
)
from nc_sweeps.config.schema import (
    ACCELERATORS,
    PRECISIONS,
    SPACINGS,
    TRACKER_NAMES,
    TRACKING_MODES,
    RunConfig,
    select_metrics,
)
from nc_sweeps.config.synonyms import find_choice
from nc_sweeps.errors import ConfigError
from nc_sweeps.metrics.catalogue import METRICS

# With larger values float32 overflows before the first step, with smaller ones it underflows to 0; larger sizes and
# lists exceed any machine.
_LARGEST = 1e12
_SMALLEST = 1e-30
_LARGEST_SIZE = 2**31 - 1
_MOST_POINTS = 100_000

# An error lists at most so many choices; of a longer list it shows the nearest one.
_LISTED_CHOICES = 8


def check(config: RunConfig) -> None:
    """Raise an error if a configuration cannot be run.

    Raises:
        ConfigError: its message names the key, its value and what would be right.
    """
    checks = _Checks(config)
    checks.check_run()
    checks.check_dataset()
    checks.check_model()
    checks.check_dynamics()
    checks.check_metrics()
    checks.check_tracking()
    checks.check_figure()


def check_dataset(config: RunConfig) -> None:
    """Raise an error if the data set of a configuration cannot be had; the other keys are not checked.

    Raises:
        ConfigError: as for :func:`check`.
    """
    _Checks(config).check_dataset()


def suggest_choice(value: Any, choices: Sequence[str], key: str = "") -> str:
    """Return the end of a message about a wrong value: which choices there are, and which one is meant or nearest.

    Args:
        value: the wrong value.
        choices: the right ones.
        key: whose value it is, or ``metric``, for choices that have other names elsewhere.
    """
    meant = [choice for choice in (find_choice(key, str(value)),) if choice in choices]
    if len(choices) > _LISTED_CHOICES:
        near = meant or difflib.get_close_matches(str(value), choices, n=1, cutoff=0.0)
        return f"did you mean {near[0]}?"
    near = meant or difflib.get_close_matches(str(value), choices, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"must be one of {', '.join(choices)}{hint}"


@cache
def _is_known(pattern: str) -> bool:
    """Return whether a metric fits a name or pattern."""
    return bool(fnmatch.filter(METRICS, pattern))


def _suggest_pattern(pattern: str) -> str:
    """Return the end of a message about a pattern that no metric fits: which one is meant."""
    inside = f"{pattern.rstrip('/')}/*"
    return f"did you mean {inside}?" if _is_known(inside) else suggest_choice(pattern, tuple(METRICS), "metric")


def _suggest_dynamics(model: str, dynamics: str) -> str:
    """Return the end of a message about dynamics that do not move a network: which ones do."""
    choice = "a mean-field flow such as dynamics=sgd" if dynamics == "flow" else f"dynamics={dynamics}"
    return f"does not move model={model}; take {choice}"


class _Checks:
    """The checks of one configuration, group by group."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config

    def check_run(self) -> None:
        config = self.config
        for name, value, _ in list_values(config):
            if isinstance(value, int) and not name.endswith("seed"):
                self._require(abs(value) <= _LARGEST_SIZE, name, f"must be at most {_LARGEST_SIZE}")
        self._require(
            config.name not in {"", ".", ".."} and "/" not in config.name, "name", "must be a plain folder name"
        )
        self._require_seed("seed")
        self._require_at_least("width.particles", 1)
        self._require_at_least("compute.devices", 1)
        self._require_at_least("compute.nodes", 1)
        processes, particles = config.compute.processes, config.width.particles
        key = "compute.devices" if config.compute.devices > 1 else "compute.nodes"
        alone = f"only particles are spread over processes, and model={config.model.name} has none"
        self._require(processes == 1 or config.model.has_particles, key, alone)
        self._require(processes <= particles, key, f"{processes} processes for {particles} particles; take fewer")
        self._require_choice("compute.accelerator", ACCELERATORS)
        self._require_choice("compute.precision", PRECISIONS)
        self._require(0 <= config.compute.threads <= 1024, "compute.threads", "must lie between 0 (all cores) and 1024")
        memory = config.compute.memory
        self._require(memory is None or 0 < memory <= _LARGEST, "compute.memory", "must be positive, or null")
        self._require_at_least("compute.checkpoint_seconds", 0)
        self._require_positive("compute.lease_seconds")

    def check_dataset(self) -> None:
        dataset = self.config.dataset
        self._require_seed("dataset.seed")
        for key in ("dataset.train_per_class", "dataset.test_per_class"):
            self._require_at_least(key, 1)
        fits = 1 <= dataset.imbalance <= _LARGEST
        self._require(fits, "dataset.imbalance", f"must lie between 1 and {_LARGEST:g}")
        self._require(0 <= dataset.label_noise < 1, "dataset.label_noise", "must be at least 0 and below 1")
        if isinstance(dataset, SyntheticConfig | FeaturesConfig):
            self._require_at_least("dataset.classes", 2)
        if isinstance(dataset, SyntheticConfig):
            q = dataset.classes
            fits = dataset.dimension >= q
            self._require(fits, "dataset.dimension", f"must be at least the number of classes, {q}")
        if isinstance(dataset, SeparableConfig):
            limit = 1 / math.sqrt(q)
            self._require(
                -1 < dataset.margin < limit,
                "dataset.margin",
                f"must lie between -1 and 1/√q = {limit:.4g} for q = {q} classes (set by separation.margin)",
            )
        if isinstance(dataset, GaussianConfig):
            self._require_non_negative("dataset.distance")
        if isinstance(dataset, MnistConfig):
            modulus = dataset.modulus
            fits = modulus is None or 2 <= modulus <= 10
            self._require(fits, "dataset.modulus", "must lie in 2 … 10 or be null")
        if isinstance(dataset, Cifar100Config):
            self._check_superclasses(dataset)

    def _check_superclasses(self, dataset: Cifar100Config) -> None:
        self._require_choice("dataset.classes", CIFAR100_CLASSES)
        key, names = "dataset.superclasses", dataset.superclasses
        for name in names:
            if name not in SUPERCLASSES:
                raise ConfigError(f"{key}={name}: no super-class of CIFAR-100; {suggest_choice(name, SUPERCLASSES)}")
        self._require(not names or dataset.classes == "superclass", key, "needs dataset.classes=superclass")
        fits = not names or 2 <= len(names) == len(set(names))
        self._require(fits, key, "must be two or more different ones, or none for all")

    def check_model(self) -> None:
        model, q = self.config.model, self.config.dataset.class_count
        self._require_choice("model.name", tuple(MODELS))
        fits = model.features is None or model.features >= q
        self._require(fits, "model.features", f"must be at least the number of classes, {q}")
        if isinstance(model, MlpConfig):
            self._require(min(model.hidden, default=0) >= 1, "model.hidden", "must name at least one width, all ≥ 1")
        if isinstance(model, ConvolutionalConfig):
            self._require_choice("model.batch_norm", BATCH_NORM_STATISTICS)
        if isinstance(model, MeanFieldConfig):
            self._check_mean_field(model)

    def _check_mean_field(self, model: MeanFieldConfig) -> None:
        self._require_choice("model.activation", ACTIVATION_NAMES)
        self._require_positive("model.gamma")
        self._require_positive("model.initial_scale_w")
        self._require_non_negative("model.initial_scale_u")
        self._require_non_negative("model.initial_scale_a")
        radius, c0 = model.truncation, model.truncation_c0
        self._require(radius >= 2, "model.truncation", "must be at least 2, or inf for none")
        self._require_finite("model.truncation", "none")
        fits = 1 <= c0 <= radius / 2
        self._require(fits, "model.truncation_c0", f"must lie between 1 and half of model.truncation, {radius / 2:g}")

    def check_dynamics(self) -> None:
        dynamics, model = self.config.dynamics, self.config.model
        self._require_choice("dynamics.name", tuple(DYNAMICS))
        self._require(dynamics.name == model.dynamics, "dynamics.name", _suggest_dynamics(model.name, model.dynamics))
        self._require_at_least("dynamics.batch_size", 1)
        self._require_positive("dynamics.step_size")
        self._require_positive("dynamics.horizon")
        self._require_choice("dynamics.horizon_unit", HORIZON_UNITS)
        whole = dynamics.horizon_unit != "steps" or dynamics.horizon == int(dynamics.horizon)
        self._require(whole, "dynamics.horizon", "must be a whole number of steps")
        previous = 0.0
        for index, change in enumerate(dynamics.schedule):
            after = f"dynamics.schedule.{index}.after"
            self._require(previous < change.after < 1, after, f"must lie between {previous:g} and 1")
            self._require_positive(f"dynamics.schedule.{index}.step_size")
            previous = change.after
        if isinstance(dynamics, MomentumConfig):
            self._require_choice("dynamics.loss", LOSS_NAMES)
            self._require(0 <= dynamics.momentum < 1, "dynamics.momentum", "must be at least 0 and below 1")
            self._require_non_negative("dynamics.weight_decay")
        if isinstance(dynamics, FlowConfig):
            self._require(dynamics.beta > 0, "dynamics.beta", "must be positive (inf: no noise)")
            self._require_finite("dynamics.beta", "no noise")
            self._require_not_tiny("dynamics.beta")
            self._require_choice("dynamics.integrator", INTEGRATOR_NAMES)
            self._require_non_negative("dynamics.lambda_rho")
            self._require_non_negative("dynamics.lambda_w")
            self._check_stages()

    def _check_stages(self) -> None:
        config, dynamics = self.config, self.config.dynamics
        fits = 0 <= dynamics.stage_one < dynamics.horizon
        self._require(
            fits, "dynamics.stage_one", f"must be at least 0 and below dynamics.horizon, {dynamics.horizon:g}"
        )
        whole = dynamics.horizon_unit != "steps" or dynamics.stage_one == int(dynamics.stage_one)
        self._require(whole, "dynamics.stage_one", "must be a whole number of steps")
        has_effect = config.model.train_head or dynamics.stage_one == 0
        self._require(
            has_effect, "dynamics.stage_one", "has no effect with model.train_head=false, with which W never moves"
        )
        if dynamics.stage_one_distance is None:
            return
        key = "dynamics.stage_one_distance"
        self._require_positive(key)
        self._require(dynamics.stage_one > 0, key, "needs a stage 1: set dynamics.stage_one, its greatest length")
        known = math.isfinite(dynamics.beta) and dynamics.lambda_rho > 0 and math.isinf(config.model.truncation)
        self._require(known, key, "the optimum is known for finite beta, lambda_rho > 0 and model.truncation=inf only")

    def check_metrics(self) -> None:
        metrics = self.config.metrics
        self._require_choice("metrics.spacing", SPACINGS)
        fits = 2 <= metrics.points <= _MOST_POINTS
        self._require(fits, "metrics.points", f"must lie between 2 and {_MOST_POINTS}")
        self._require_at_least("metrics.every", 1)
        for key in ("include", "exclude"):
            for pattern in getattr(metrics, key):
                if not _is_known(pattern):
                    raise ConfigError(f"metrics.{key}={pattern}: no such metric; {_suggest_pattern(pattern)}")
        chosen = len(select_metrics(self.config)) > 0
        self._require(
            chosen, "metrics.include", "must name at least one metric that the network has and that is not excluded"
        )
        self._require_choice("optimized_metric", tuple(METRICS))

    def check_tracking(self) -> None:
        self._require_choice("tracking.name", TRACKER_NAMES)
        self._require_choice("tracking.mode", TRACKING_MODES)
        project = self.config.tracking.project
        plain = 0 < len(project) <= 128 and not set(project) & set("/\\#?%:")
        self._require(plain, "tracking.project", "must have 1 to 128 characters, none of / \\ # ? % :")
        for tag in self.config.tracking.tags:
            self._require(0 < len(tag) <= 64, "tracking.tags", "a tag has 1 to 64 characters")

    def check_figure(self) -> None:
        x = self.config.figure.x
        if x not in {"time", "epoch"}:
            choices = ("time", "epoch", *sorted(name for name, _, _ in list_values(self.config)))
            if x not in choices:
                raise ConfigError(f"figure.x={x}: {suggest_choice(x, choices, 'keys')}")
        for name in self.config.figure.y:
            if name not in METRICS:
                raise ConfigError(f"figure.y={name}: no such metric; {suggest_choice(name, tuple(METRICS), 'metric')}")

    def _find_value(self, key: str) -> Any:
        def step(tree: Any, part: str) -> Any:
            return tree[int(part)] if isinstance(tree, list) else getattr(tree, part)

        return reduce(step, key.split("."), self.config)

    def _require(self, holds: bool, key: str, expected: str) -> None:
        if not holds:
            raise ConfigError(f"{key}={self._find_value(key)}: {expected}")

    def _require_choice(self, key: str, choices: Sequence[str]) -> None:
        value = self._find_value(key)
        if value not in choices:  # only then is it worth looking for the nearest
            raise ConfigError(f"{key}={value}: {suggest_choice(value, choices, key)}")

    def _require_seed(self, key: str) -> None:
        self._require(0 <= self._find_value(key) < 2**63, key, "must be at least 0 and below 2⁶³")

    def _require_positive(self, key: str) -> None:
        self._require(0 < self._find_value(key) <= _LARGEST, key, f"must be positive and at most {_LARGEST:g}")
        self._require_not_tiny(key)

    def _require_non_negative(self, key: str) -> None:
        self._require(0 <= self._find_value(key) <= _LARGEST, key, f"must be at least 0 and at most {_LARGEST:g}")
        self._require_not_tiny(key)

    def _require_finite(self, key: str, without: str) -> None:
        """Require a number that float32 holds, or infinity, which stands for what is not there."""
        fits = self._find_value(key) <= _LARGEST or self._find_value(key) == math.inf
        self._require(fits, key, f"must be at most {_LARGEST:g}, or inf for {without}")

    def _require_not_tiny(self, key: str) -> None:
        value = self._find_value(key)
        self._require(value == 0 or value >= _SMALLEST, key, f"must be at least {_SMALLEST:g}: float32 ends there")

    def _require_at_least(self, key: str, least: int) -> None:
        """Require a number from ``least`` on, or null where the schema allows it."""
        value = self._find_value(key)
        self._require(value is None or value >= least, key, f"must be at least {least}")
