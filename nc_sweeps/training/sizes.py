"""Sizes of a run, known before it begins, which decide how much memory and time it takes."""

import math
from abc import ABC
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from nc_sweeps import kernels
from nc_sweeps.config import ConvolutionalConfig, RunConfig
from nc_sweeps.data import Dataset
from nc_sweeps.dynamics.schedule import Schedule
from nc_sweeps.errors import ConfigError
from nc_sweeps.training.deep import build_network


@dataclass(frozen=True)
class Size(ABC):
    """Sizes of a run.

    Args:
        samples, test_samples: numbers of training and of test samples.
        dimension, features, classes: d, p, q.
        batch: samples a step.
        steps: steps that are still to be taken.
        measurements: measurements that are still to be made.
        dtype: type of the parameters.
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
        """Return the sizes of a run that stands at a step.

        Raises:
            ConfigError: the network cannot take such samples or such batches.
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
        return _find_flow_size(config, common) if config.model.has_particles else _find_deep_size(config, data, common)


@dataclass(frozen=True)
class FlowSize(Size):
    """Sizes of a run of a mean-field network.

    Args:
        particles: number of particles that one process holds.
        noisy: whether particles diffuse.
        compiled: whether the compiled step trains it.
    """

    particles: int
    noisy: bool
    compiled: bool


@dataclass(frozen=True)
class DeepSize(Size):
    """Sizes of a run of a deep network.

    Args:
        parameters: number of parameters of the network.
        activations: bytes that a sample leaves in the network until its gradient is known.
        pass_work: multiply-adds that take a sample to its scores.
        recalibrated: whether a measurement begins with a pass that recalibrates BatchNorm.
    """

    parameters: int
    activations: int
    pass_work: int
    recalibrated: bool


def _find_flow_size(config: RunConfig, common: dict[str, Any]) -> FlowSize:
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


def _find_deep_size(config: RunConfig, data: Dataset, common: dict[str, Any]) -> DeepSize:
    network = build_network(config.model, data)
    samples, batch = common["samples"], common["batch"]
    if 1 in {batch, samples % batch} and any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()):
        raise ConfigError(
            f"dynamics.batch_size={config.dynamics.batch_size}: leaves a batch of one of {samples} samples, of "
            f"which the BatchNorm of model={config.model.name} knows no variance"
        )
    work, activations = _measure_pass(network.to(common["dtype"]), common["dimension"])
    return DeepSize(
        **common,
        features=network.head.in_features,
        parameters=sum(Z.numel() for Z in network.parameters()),
        activations=activations,
        pass_work=work,
        recalibrated=isinstance(config.model, ConvolutionalConfig) and config.model.batch_norm == "recalibrated",
    )


def _measure_pass(network: nn.Module, dimension: int) -> tuple[int, int]:
    """Count the multiply-adds of a sample's forward pass and the bytes that it keeps for the backward pass.

    Args:
        network: on the device ``meta``, where nothing is computed.
        dimension: d.
    """
    samples = 2  # BatchNorm knows no variance of a single one
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
