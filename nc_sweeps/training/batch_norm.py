"""Statistics of BatchNorm while a network is measured.

The running statistics of BatchNorm follow a network that learns with a delay of tens of steps: with them, a network
that has just begun to learn is not the one that is trained. So a measurement may use others:

* ``recalibrated``: those of the whole training set, taken in one pass that normalises each batch by its own statistics;
* ``running``: the running statistics as they are;
* ``batch``: those of each batch that is measured, as in training.

Either way only BatchNorm differs: all other layers are in evaluation mode, and the running statistics stay as they are.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Statistics = Literal["recalibrated", "running", "batch"]
STATISTICS: tuple[Statistics, ...] = get_args(Statistics)


def find_batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """Return the layers of BatchNorm that train: not those that are frozen in evaluation mode, and not those that keep
    no running statistics and always use those of a batch.
    """
    layers = (layer for layer in module.modules() if isinstance(layer, _BatchNorm))
    return [layer for layer in layers if layer.training and layer.running_mean is not None]


def mix_into_batches(samples: int, size: int) -> Sequence[Int[Tensor, "b"]]:
    """Cut samples into batches, always in the same way.

    The samples are mixed, as those of a data set may lie in the order of their classes. The sizes of the batches differ
    by one at most. No batch has a single sample, of which BatchNorm knows no variance, unless there is only one, or the
    size is 1.

    Args:
        samples: number of samples.
        size: largest size of a batch; of 3 where it is 2 and one sample would be left.
    """
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(0))
    batches = math.ceil(samples / size)
    return order.tensor_split(batches if size == 1 else min(batches, max(samples // 2, 1)))


@contextmanager
def use_statistics(
    statistics: Statistics,
    layers: Sequence[_BatchNorm],
    run_pass: Callable[[], None],
    add_processes: Callable[[Tensor], Tensor] = lambda Z: Z,
) -> Iterator[None]:
    """Have layers use some statistics until the context ends.

    Args:
        statistics: which ones.
        layers: layers of BatchNorm, in evaluation mode.
        run_pass: runs the network on the batches of the training set that this process has.
        add_processes: returns the sum of a tensor over processes; by default there is one process.
    """
    if not layers or statistics == "running":
        yield
        return
    with _keep_buffers(layers):
        if statistics == "recalibrated":
            _recalibrate(layers, run_pass, add_processes)
        for layer in layers:
            layer.training = statistics == "batch"
        yield


@contextmanager
def _keep_buffers(layers: Sequence[_BatchNorm]) -> Iterator[None]:
    """Restore modes and running statistics when the context ends."""
    kept = [(layer, layer.training, [(Z, Z.clone()) for Z in layer.buffers(recurse=False)]) for layer in layers]
    try:
        yield
    finally:
        with torch.no_grad():
            for layer, mode, buffers in kept:
                layer.training = mode
                for Z, value in buffers:
                    Z.copy_(value)


class _Moments:
    """Number, sum and sum of squares of what has passed through a layer, channel by channel and in float64."""

    def __init__(self, layer: _BatchNorm) -> None:
        # MPS has no double precision.
        self._device = "cpu" if layer.running_mean.device.type == "mps" else layer.running_mean.device  # type: ignore[union-attr]
        self.sums = torch.zeros(3, layer.num_features, dtype=torch.float64, device=self._device)

    def normalise_by_batch(self, layer: _BatchNorm, inputs: tuple[Any, ...]) -> None:
        """Give a layer, before it runs, the statistics of its input, and add them up."""
        Z = inputs[0].detach()
        Z = Z.to(torch.promote_types(Z.dtype, torch.float32))
        variance, mean = torch.var_mean(Z, dim=[d for d in range(Z.ndim) if d != 1], correction=0)
        _set_statistics(layer, mean, variance)
        mean, variance = (part.to(self._device).double() for part in (mean, variance))
        samples = Z.numel() / len(mean)
        self.sums += samples * torch.stack([torch.ones_like(mean), mean, variance + mean.square()])


@torch.no_grad()
def _recalibrate(
    layers: Sequence[_BatchNorm], run_pass: Callable[[], None], add_processes: Callable[[Tensor], Tensor]
) -> None:
    """Set the running statistics to mean and variance of all that passes through the layers.

    The variance is that within the batches and that between their means, so that the statistics of the first layer do
    not depend on how the samples are cut into batches, and of all layers not on how the batches are spread over
    processes.
    """
    moments = {layer: _Moments(layer) for layer in layers}
    with ExitStack() as hooks:
        for layer, of_layer in moments.items():
            hooks.callback(layer.register_forward_pre_hook(of_layer.normalise_by_batch).remove)
        run_pass()
    sums = add_processes(torch.cat([of_layer.sums for of_layer in moments.values()], dim=1))
    for layer, part in zip(layers, torch.split(sums, [layer.num_features for layer in layers], dim=1), strict=True):
        count, total, squares = part
        if count.any():  # else nothing has passed through the layer
            mean = total / count
            _set_statistics(layer, mean, (squares / count - mean.square()).clamp(min=0))


@torch.no_grad()
def _set_statistics(layer: _BatchNorm, mean: Float[Tensor, "c"], variance: Float[Tensor, "c"]) -> None:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(variance)
