"""A deep network as a Lightning module: its steps, its measurements and its state."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nc_sweeps.config import DeepConfig, MlpConfig, MomentumConfig
from nc_sweeps.data import Dataset
from nc_sweeps.dynamics.batches import MiniBatches
from nc_sweeps.dynamics.schedule import Schedule
from nc_sweeps.models.deep import DeepNetwork, build_deep_network
from nc_sweeps.training.batch_norm import Statistics, find_batch_norms, mix_into_batches, use_statistics
from nc_sweeps.training.module import RunsModule
from nc_sweeps.training.passes import (
    Batch,
    Gradient,
    Head,
    Loss,
    compute_losses,
    compute_norm,
    measure_layers,
    measure_sets,
)

#: Number of samples that a measurement puts through the network at once.
AT_ONCE = 128


def build_network(model: DeepConfig, data: Dataset) -> DeepNetwork:
    """Return the network of a configuration for a data set, without numbers, on the device ``meta``.

    Raises:
        ConfigError: the network takes images, and the samples are not images.
    """
    hidden = model.hidden if isinstance(model, MlpConfig) else ()
    return build_deep_network(model.name, data.shape, data.classes, model.features, hidden)


class DeepModule(RunsModule):
    r"""One deep network, its data and stochastic gradient descent with momentum and weight decay:

    .. math::
        v \leftarrow \mu v + \nabla L + \lambda\theta, \qquad \theta \leftarrow \theta - \eta v,

    from v = 0, where L is the mean loss of a mini-batch, whose samples are a function of (seed, step).

    Args:
        network: the network at step ``step``.
        data: the data set. Its samples are standardised by mean and standard deviation of the training set: images
            channel by channel, any other samples by those of all their numbers.
        dynamics: configuration of the training.
        schedule: step sizes.
        seed: seed of the mini-batches.
        step: number of steps taken.
        batch_norm: statistics that BatchNorm uses in measurements.
    """

    X: Tensor
    labels: Tensor
    X_test: Tensor
    labels_test: Tensor

    def __init__(
        self,
        network: DeepNetwork,
        data: Dataset,
        dynamics: MomentumConfig,
        schedule: Schedule,
        seed: int,
        step: int = 0,
        batch_norm: str = "recalibrated",
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network = network
        self.data = data
        self.dynamics = dynamics
        self.loss = cast(Loss, dynamics.loss)
        self.schedule = schedule
        self.seed = seed
        self.step = step
        self.batch_norm = cast(Statistics, batch_norm)
        self._batch_norms = find_batch_norms(network)
        dtype = network.head.weight.dtype
        mean, deviation = _compute_moments(data)
        for suffix, split in (("", data.train), ("_test", data.test)):
            self.register_buffer(f"X{suffix}", _standardise(split.x, mean, deviation).to(dtype), persistent=False)
            self.register_buffer(f"labels{suffix}", torch.from_numpy(split.labels), persistent=False)
        self._momenta = {name: torch.zeros_like(Z) for name, Z in network.named_parameters()}
        self._batches: MiniBatches | None = None

    def configure_optimizers(self) -> None:
        """Return no optimiser to Lightning: this module takes its steps itself."""
        dynamics = self.dynamics
        self.optimiser = torch.optim.SGD(
            self.network.parameters(),
            lr=dynamics.step_size,
            momentum=dynamics.momentum,
            weight_decay=dynamics.weight_decay,
        )
        for name, parameter in self.network.named_parameters():
            self._momenta[name] = self._momenta[name].to(parameter.device)
            self.optimiser.state[parameter]["momentum_buffer"] = self._momenta[name]
        samples, size = len(self.labels), dynamics.batch_size
        if size is not None and size < samples:
            self._batches = MiniBatches(torch.tensor([self.seed], device=self.device), samples, size)

    def training_step(self, segment: tuple[int, int], batch_idx: int) -> None:
        """Take the steps of a segment."""
        first, last = segment
        self.network.train()
        for step in range(first + 1, last + 1):
            chosen = slice(None) if self._batches is None else self._batches.of(step)[0]
            self.optimiser.param_groups[0]["lr"] = self.schedule.step_size(step)
            self.optimiser.zero_grad()
            scores = self.network(self.X[chosen])
            torch.autograd.backward(compute_losses(self.loss, scores, self.labels[chosen]).mean())
            self.optimiser.step()
        self.step = last

    @property
    def schedules(self) -> Sequence[Schedule]:
        """Schedule of the one run."""
        return [self.schedule]

    def measure(self, names: Sequence[str]) -> dict[str, list[float]]:
        """Return metrics of the catalogue by name, measured in evaluation mode but for BatchNorm."""
        needs_gradient = any(name.startswith("gradient_norm/") for name in names)
        gradient = Gradient(self.network) if needs_gradient else None
        head = Head(self.network.head)
        sets: dict[str, Callable[[bool], Iterator[Batch]]] = {
            "train": partial(self._iterate_batches, head, self.X, self.labels)
        }
        if any(name.endswith("/test") for name in names):
            sets["test"] = partial(self._iterate_batches, head, self.X_test, self.labels_test)
        with self._evaluation_mode():
            values = measure_sets(sets, head, self.loss, gradient, names.__contains__)
            values |= measure_layers(head, self.network.linear)
            values |= {name.removesuffix("/train"): value for name, value in values.items() if "certificate/" in name}
            decay = self.dynamics.weight_decay
            squares = compute_norm(Z.double() for Z in self.network.parameters()).square()
            values["loss/regularised"] = values["loss/train"] + decay / 2 * squares
            if gradient is not None:
                parts = {name: Z + decay * gradient.parameters[name] for name, Z in gradient.compute().items()}
                values["gradient_norm/parameters"] = compute_norm(parts.values())
                values["gradient_norm/w"] = compute_norm([parts["head.weight"]])
        if "data/margin" in names:
            values["data/margin"] = torch.tensor(self.data.margin)
        return {name: [float(values[name])] for name in names}

    def _iterate_batches(
        self, head: Head, X: Float[Tensor, "n d"], labels: Int[Tensor, "n"], with_gradient: bool
    ) -> Iterator[Batch]:
        """Yield the batches of a pass through a data set."""
        for chosen in self._cut(len(labels)):
            with torch.set_grad_enabled(with_gradient), self.trainer.precision_plugin.forward_context():
                features = self.network.features(X[chosen])
                scores = self.network.head(features)
            H = features.detach().double()
            yield Batch(H, head.compute_scores(H), scores, labels[chosen])

    def _cut(self, samples: int) -> Iterable[slice | Tensor]:
        """Return the samples of each batch of a measurement; which they are matters to the statistics of a batch."""
        if self.batch_norm == "batch" and self._batch_norms:
            return mix_into_batches(samples, self.dynamics.batch_size or samples)
        return [slice(start, start + AT_ONCE) for start in range(0, samples, AT_ONCE)]

    @contextmanager
    def _evaluation_mode(self) -> Iterator[None]:
        """Put all layers into evaluation mode, in which BatchNorm uses the statistics that were asked for."""
        self.network.eval()
        try:
            with torch.no_grad(), use_statistics(self.batch_norm, self._batch_norms, self._run_training_set):
                yield
        finally:
            self.network.train()

    def _run_training_set(self) -> None:
        """Run the network on its training set, in batches of the size of the mini-batches."""
        samples = len(self.labels)
        for chosen in mix_into_batches(samples, self.dynamics.batch_size or samples):
            with self.trainer.precision_plugin.forward_context():
                self.network.features(self.X[chosen])

    def state(self, run: int) -> dict[str, Tensor]:
        """Return parameters, statistics of BatchNorm and momenta."""
        tensors = {f"network.{name}": Z for name, Z in self.network.state_dict().items()}
        tensors |= {f"momentum.{name}": Z for name, Z in self._momenta.items()}
        return {name: Z.detach().cpu() for name, Z in tensors.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take over a state that :meth:`state` returned."""
        for name, Z in self.network.state_dict().items():
            Z.copy_(state[f"network.{name}"])
        for name, Z in self._momenta.items():
            Z.copy_(state[f"momentum.{name}"])

    @torch.no_grad()
    def extinguish_diverged(self) -> list[bool]:
        """Set all parameters and statistics to zero if one of them is infinite or NaN; return whether one was."""
        numbers = [Z for Z in self.network.state_dict().values() if Z.is_floating_point()]
        diverged = not all(bool(Z.isfinite().all()) for Z in numbers)
        if diverged:
            for Z in numbers:
                Z.zero_()
        return [diverged]


def _compute_moments(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each channel of the training inputs."""
    channels = data.shape[0] if len(data.shape) == 3 else 1
    x = data.train.x.reshape(len(data.train.x), channels, -1)
    deviation = x.std(axis=(0, 2), keepdims=True)
    deviation[deviation == 0.0] = 1.0
    return x.mean(axis=(0, 2), keepdims=True), deviation


def _standardise(x: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> Float[Tensor, "n d"]:
    """Return standardised inputs in float64, which takes one more array of their size."""
    z = x.reshape(len(x), mean.shape[1], -1) - mean
    z /= deviation
    return torch.from_numpy(z.reshape(x.shape))
