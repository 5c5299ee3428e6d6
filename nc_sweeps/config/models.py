"""The keys of networks."""

from dataclasses import dataclass
from typing import ClassVar

from nc_sweeps.config.keys import per_run, shape

ACTIVATION_NAMES = ("tanh", "erf", "sigmoid", "relu", "softplus")
BATCH_NORM_STATISTICS = ("recalibrated", "running", "batch")


@dataclass
class ModelConfig:
    """Keys that every network has."""

    dynamics: ClassVar[str] = "momentum"

    name: str = shape("name of the network")

    @property
    def has_particles(self) -> bool:
        """Whether the network is made of particles, so that runs train together and may be spread over processes."""
        return self.dynamics == "flow"


@dataclass
class MeanFieldConfig(ModelConfig):
    """Keys of ``model=mean_field``: f(x) = γ Wᵀ mean_j a_j σ(u_jᵀx)."""

    dynamics: ClassVar[str] = "flow"

    features: int = shape("feature dimension p ≥ q")
    activation: str = shape(f"activation σ: {', '.join(ACTIVATION_NAMES)}")
    gamma: float = per_run("output scale γ > 0")
    initial_scale_u: float = per_run("standard deviation of the first layer at the start")
    initial_scale_a: float = per_run("standard deviation of the second layer at the start")
    initial_scale_w: float = per_run("scale of the head at the start: W₀ᵀW₀ = scale² I")
    train_head: bool = shape("whether the head W is trained; false: W stays W₀")
    truncation: float = shape("radius R of the truncation τ_R of the second layer; inf: none")
    truncation_c0: float = shape("constant C₀ of the truncation, 1 ≤ C₀ ≤ R/2")


@dataclass
class DeepConfig(ModelConfig):
    """Keys of every deep network: layers of any kind and a linear head, F = HW."""

    features: int | None = shape("feature dimension p ≥ q, that of a linear layer before the head; null: no such layer")


@dataclass
class ConvolutionalConfig(DeepConfig):
    """Keys of ``model=resnet18`` and ``model=vgg11``, which have BatchNorm."""

    batch_norm: str = shape(
        f"statistics of BatchNorm when the network is measured: {', '.join(BATCH_NORM_STATISTICS)}", before="running"
    )


@dataclass
class MlpConfig(DeepConfig):
    """Keys of ``model=mlp``."""

    hidden: list[int] = shape("widths of the hidden layers")


MODELS: dict[str, type[ModelConfig]] = {
    "mean_field": MeanFieldConfig,
    "mlp": MlpConfig,
    "resnet18": ConvolutionalConfig,
    "vgg11": ConvolutionalConfig,
}
