"""The keys of a run: every one is declared, typed and explained once, here and in the modules of its groups."""

import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from nc_sweeps.config.datasets import DATASETS
from nc_sweeps.config.dynamics import DYNAMICS
from nc_sweeps.config.keys import Key, group, list_keys, per_run, shape, unsigned
from nc_sweeps.config.models import MODELS
from nc_sweeps.metrics.catalogue import METRICS

SPACINGS = ("log", "linear", "epochs")
TRACKER_NAMES = ("none", "wandb")
TRACKING_MODES = ("auto", "online", "offline")
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
# Parameters stay in full precision: the half-precision "true" modes would round a step of the flow away. And float16
# has not the range for the gradient (γ/n) r Wᵀ of many samples; bfloat16 has.
PRECISIONS = ("32-true", "64-true", "bf16-mixed")

#: Schemas of the groups whose keys depend on what is chosen, by the name of the choice.
CHOICES: dict[str, Mapping[str, type[Any]]] = {"dataset": DATASETS, "model": MODELS, "dynamics": DYNAMICS}


@dataclass
class WidthConfig:
    """Keys of the group ``width``."""

    particles: int = shape("number of particles N")


@dataclass
class SeparationConfig:
    """Keys of the group ``separation``, which the synthetic data sets read."""

    margin: float = unsigned("margin τ of dataset=separable, read by dataset.margin")
    distance: float = unsigned("distance of the class means of dataset=gaussian, read by dataset.distance")


@dataclass
class MetricsConfig:
    """Keys of the group ``metrics``: what is measured and when."""

    include: list[str] = shape("names or patterns of the metrics that are measured")
    exclude: list[str] = shape("names or patterns of metrics that are left out")
    spacing: str = shape(f"spacing of the measurements: {', '.join(SPACINGS)}")
    points: int = shape("number of measurements, for the spacings log and linear")
    every: int = shape("number of epochs from one measurement to the next, for the spacing epochs")


@dataclass
class ComputeConfig:
    """Keys of the group ``compute``: the hardware that trains a run."""

    accelerator: str = unsigned(f"accelerator, as Lightning's Trainer names it: {', '.join(ACCELERATORS)}")
    devices: int = unsigned("number of devices of a node over which the particles of a run are spread, a process each")
    nodes: int = unsigned("number of nodes over whose devices the particles are spread")
    precision: str = shape(f"precision, as Lightning's Trainer names it: {', '.join(PRECISIONS)}")
    threads: int = unsigned("number of CPU threads of a process; 0: all cores given to it")
    memory: float | None = unsigned(
        "GiB of memory that a process may take: ensembles are cut to it; null: what is free"
    )
    checkpoint_seconds: float = unsigned("least time between two checkpoints of a run, in seconds")
    lease_seconds: float = unsigned("seconds of silence after which others may take over the runs of a process")

    @property
    def processes(self) -> int:
        """Number of processes over which the particles of a run are spread."""
        return self.devices * self.nodes


@dataclass
class TrackingConfig:
    """Keys of the group ``tracking``: where runs are published, besides the store."""

    name: str = unsigned(f"where runs are published while they train: {', '.join(TRACKER_NAMES)}")
    mode: str = unsigned(f"mode of Weights & Biases: {', '.join(TRACKING_MODES)} (auto: online if there is an API key)")
    project: str = unsigned("project of Weights & Biases")
    entity: str | None = unsigned("user or team of Weights & Biases; null: the default of the API key")
    job_type: str = unsigned("job type of the W&B runs")
    tags: list[str] = unsigned("tags of the W&B runs")
    model: bool = unsigned("whether the final state of a run is published, too, as an artifact")


@dataclass
class FigureConfig:
    """Keys of the group ``figure``: the picture at the end of a sweep."""

    x: str = unsigned("horizontal axis: time or epoch of training, or a key, against which last values are drawn")
    y: list[str] = unsigned("metrics on the vertical axes")


@dataclass
class RunConfig:
    """The configuration of one run, a point of a sweep."""

    name: str = unsigned("name of the sweep and of its folder")
    seed: int = per_run("seed ≥ 0 of initialisation, noise and mini-batches")
    optimized_metric: str = unsigned("metric whose last value nc-train returns to a Hydra sweeper")
    output_dir: str = unsigned("folder of all sweeps")
    data_dir: str = unsigned("folder of downloaded data sets")
    dataset: Any = group("the data set")
    width: WidthConfig = group("the number of particles")
    separation: SeparationConfig = group("how far apart the classes are")
    model: Any = group("the network")
    dynamics: Any = group("how the network is trained")
    metrics: MetricsConfig = group("the measurements")
    compute: ComputeConfig = group("the hardware")
    tracking: TrackingConfig = group("where the runs are published")
    figure: FigureConfig = group("the picture of a sweep")


def list_all_keys() -> Iterator[Key]:
    """Yield every key that some run has: one of a group with choices once for each choice that declares it."""
    yield from list_keys(RunConfig)
    for name, schemas in CHOICES.items():
        for schema in schemas.values():
            yield from list_keys(schema, f"{name}.")


def select_metrics(config: RunConfig) -> tuple[str, ...]:
    """Return the names of the metrics that a run measures, in the order of the catalogue.

    Those that the network of the run does not have are left out.
    """
    return _match_metrics(tuple(config.metrics.include), tuple(config.metrics.exclude), _find_networks(config))


def _find_networks(config: RunConfig) -> tuple[str, ...]:
    """Return the :attr:`~nc_sweeps.metrics.catalogue.Metric.networks` to which the network of a run belongs."""
    if config.model.has_particles:
        return "any", "particles", "two layers", "targets"
    two_layers = ("two layers",) if config.model.features is not None else ()
    targets = ("targets",) if config.dynamics.loss == "mse" else ()
    return "any", "parameters", *two_layers, *targets


@cache
def _match_metrics(include: tuple[str, ...], exclude: tuple[str, ...], networks: tuple[str, ...]) -> tuple[str, ...]:
    def matches(name: str, patterns: tuple[str, ...]) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    return tuple(
        name
        for name, metric in METRICS.items()
        if metric.networks in networks and matches(name, include) and not matches(name, exclude)
    )
