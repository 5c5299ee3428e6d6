"""Measurements of a network with a linear head, made while the samples of its data sets pass through it.

Nothing as large as a data set is kept: statistics of the features H, of r = F − Y and of the loss add up over batches
and processes, in float64, and everything else follows from them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from nc_sweeps.metrics.balancedness import balancedness
from nc_sweeps.metrics.statistics import ClassStatistics
from nc_sweeps.metrics.streaming import NearestClassCentre, NeuralCollapse, measure_collapse
from nc_sweeps.theory.certificate import Certificate, certificate_of_statistics

Loss = Literal["mse", "cross_entropy"]


@dataclass(frozen=True)
class Batch:
    """A batch of samples that passed through the head.

    Args:
        H, F: features and scores in double precision, without gradients.
        raw_scores: the scores as the module computes them, in its own precision, with their gradients.
        labels: class of each sample.
    """

    H: Float[Tensor, "b p"]
    F: Float[Tensor, "b q"]
    raw_scores: Float[Tensor, "b q"]
    labels: Tensor


class Head:
    """A linear head in double precision: F = HW + b.

    Scores in the precision of the module are not exactly linear in the features, which the certificate relies on.
    """

    W: Float[Tensor, "p q"]
    bias: Float[Tensor, "q"] | None

    def __init__(self, layer: nn.Linear) -> None:
        device = layer.weight.device
        if device.type == "mps":  # has no double precision
            device = torch.device("cpu")
        self.W = layer.weight.detach().to(device).double().mT
        self.bias = None if layer.bias is None else layer.bias.detach().to(device).double()

    def compute_scores(self, H: Float[Tensor, "b p"]) -> Float[Tensor, "b q"]:
        """Return the scores F of features."""
        return H @ self.W if self.bias is None else H @ self.W + self.bias


class Tally:
    """Statistics of one data set, which add up over its batches and over processes.

    Args:
        head: head of the network.
        loss: loss of the network.
    """

    def __init__(self, head: Head, loss: Loss) -> None:
        self._head, self._loss = head, loss
        p, q = head.W.shape
        # Residuals, and losses with errors, are rows with a label, just as features are.
        features, residuals, outcomes = (NeuralCollapse(q, width).to(head.W.device) for width in (p, q, 2))
        self._features, self._residuals, self._outcomes = features, residuals, outcomes

    def add(self, batch: Batch) -> None:
        """Add samples of this process."""
        self._features.update(batch.H, batch.labels)
        labels = batch.labels.long()
        self._residuals.update(batch.F - one_hot(labels, batch.F.shape[1]), labels)
        wrong = (batch.F.argmax(dim=1) != labels).double()
        self._outcomes.update(torch.stack([compute_losses(self._loss, batch.F, labels), wrong], dim=1), labels)

    @cached_property
    def statistics(self) -> ClassStatistics:
        """Class statistics of the features in all processes."""
        return _merge_processes(self._features)

    def compute(self) -> dict[str, Tensor]:
        """Return loss, error, NC1 to NC3 and for ``mse`` the certificate, of the samples in all processes."""
        statistics, W = self.statistics, self._head.W
        values = measure_collapse(statistics, W)
        outcomes = _merge_processes(self._outcomes)
        losses, errors = outcomes.means.unbind(dim=1)
        values["loss"] = (outcomes.counts * losses).sum() / statistics.counts.sum()
        values["error"] = errors.where(outcomes.counts > 0, torch.nan).mean()
        if self._loss == "mse":
            residuals = _merge_processes(self._residuals)
            # LAPACK refuses what a diverged training leaves behind.
            if W.isfinite().all():
                certificate = certificate_of_statistics(statistics, residuals, W, W.new_ones(()))
            else:
                certificate = Certificate(*5 * [W.new_tensor(torch.nan)])
            values |= {f"certificate/{name}": value for name, value in vars(certificate).items()}
            values["certificate/tightness"] = values["nc1"] / certificate.nc1_bound
        return values


class Gradient:
    """The gradient of the mean loss with respect to all parameters that are trained.

    Args:
        module: the module that has the parameters.
    """

    def __init__(self, module: nn.Module) -> None:
        self.parameters = {name: Z for name, Z in module.named_parameters() if Z.requires_grad}
        self._sums = [
            torch.zeros_like(parameter, dtype=torch.promote_types(parameter.dtype, torch.float32))
            for parameter in self.parameters.values()
        ]
        self._samples = 0

    def add(self, losses: Float[Tensor, "b"]) -> None:
        """Add samples of this process."""
        gradients = torch.autograd.grad(losses.sum(), list(self.parameters.values()), allow_unused=True)
        for total, gradient in zip(self._sums, gradients, strict=True):
            if gradient is not None:
                total.add_(gradient)
        self._samples += len(losses)

    def compute(self, add_processes: Callable[[Tensor], Tensor] = lambda Z: Z) -> dict[str, Tensor]:
        """Return the gradient by the names of the parameters.

        Args:
            add_processes: returns the sum of a tensor over processes; by default there is one process.
        """
        sums = add_processes(torch.cat([total.flatten() for total in self._sums]))
        # The number of samples is added up as an integer: single precision counts to 2²⁴ only.
        samples = add_processes(torch.tensor(self._samples, dtype=torch.int64, device=sums.device))
        parts = torch.split(sums, [total.numel() for total in self._sums])
        return {
            name: part.view_as(parameter) / samples
            for part, (name, parameter) in zip(parts, self.parameters.items(), strict=True)
        }


def compute_norm(parts: Iterable[Tensor]) -> Tensor:
    """Return the Euclidean norm of all numbers in several tensors."""
    norm: Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(part) for part in parts]))
    return norm


def compute_losses(loss: Loss, F: Float[Tensor, "b q"], labels: Tensor) -> Float[Tensor, "b"]:
    """Return the loss of every sample, in single precision or better."""
    F = F.to(torch.promote_types(F.dtype, torch.float32))
    labels = labels.to(F.device).long()
    if loss == "mse":
        return (F - one_hot(labels, F.shape[1])).square().sum(dim=1) / 2
    return cross_entropy(F, labels, reduction="none")


def _merge_processes(metric: NeuralCollapse) -> ClassStatistics:
    """Return the statistics of the samples that all processes have seen."""
    with metric.sync_context():
        return metric.statistics


def measure_layers(head: Head, previous: nn.Linear | None) -> dict[str, Tensor]:
    """Return the metrics that depend on weights alone: singular values of the head, and balancedness of the head and
    the linear layer before it, if there is one.
    """
    finite = bool(head.W.isfinite().all())
    singular = torch.linalg.svdvals(head.W) if finite else head.W.new_full((2,), torch.nan)
    values = {"head/sigma_min": singular[-1], "head/sigma_max": singular[0]}
    if previous is not None:
        V = previous.weight.detach().to(head.W.device).double()  # (p m): m particles, up to a scale that cancels
        values["balancedness"] = balancedness(V @ V.mT, head.W)
    return values


def measure_sets(
    sets: Mapping[str, Callable[[bool], Iterator[Batch]]],
    head: Head,
    loss: Loss,
    gradient: Gradient | None,
    wants: Callable[[str], bool],
) -> dict[str, Tensor]:
    """Measure a network in one pass through each data set, and in a second pass through the first one for its NC4.

    Args:
        sets: data sets by name. Each is a function that returns the batches of one pass, given whether their scores are
            to have gradients. The first is the training set, from which NC4 takes the class centres.
        head: head of the network.
        loss: loss of the network.
        gradient: gradient to which the samples of the first set are added; None: it is not asked for.
        wants: tells whether a value of a name is asked for.

    Returns:
        Values by metric and set, such as ``nc1/train``.
    """
    values: dict[str, Tensor] = {}
    centres: ClassStatistics | None = None
    for name, batches in sets.items():
        is_first = centres is None
        agreement = None if centres is None else NearestClassCentre(centres)
        tally = Tally(head, loss)
        for batch in batches(is_first and gradient is not None):
            tally.add(batch)
            if is_first and gradient is not None:
                with torch.enable_grad():
                    gradient.add(compute_losses(loss, batch.raw_scores, batch.labels))
            if agreement is not None:
                agreement.update(batch.H, batch.F)
        values |= {f"{metric}/{name}": value for metric, value in tally.compute().items()}
        if centres is None:
            centres = tally.statistics
            if wants(f"nc4/{name}"):
                agreement = NearestClassCentre(centres)
                for batch in batches(False):
                    agreement.update(batch.H, batch.F)
        if agreement is not None:
            values[f"nc4/{name}"] = agreement.compute()
    return values
