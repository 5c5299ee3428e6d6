r"""Class statistics of features: all that NC1 (in its five forms), NC2 and NC3 need to know of the samples.

They take O(q p + p²) memory however many samples there are, and those of two sets of samples merge into those of the
union (T. Chan, G. Golub, R. LeVeque, *Updating formulae and a pairwise algorithm for computing sample variances*,
1979). Only squares of differences are ever summed: moments about zero, :math:`\sum h h^\top - n \mu\mu^\top`, lose
their digits exactly when collapse happens.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class ClassStatistics:
    r"""What is known of the features of q classes; float64, leading axes (runs) are batched.

    Args:
        counts: :math:`n_k`.
        means: :math:`\mu_k`, a row a class; 0 for a class without samples.
        sums_of_squares: :math:`\sum_{i \in k} \|h_i - \mu_k\|^2`, one number a class.
        scatter: :math:`\sum_k \sum_{i \in k} (h_i - \mu_k)(h_i - \mu_k)^\top`, within all classes together.
    """

    counts: Float[Tensor, "*run q"]
    means: Float[Tensor, "*run q p"]
    sums_of_squares: Float[Tensor, "*run q"]
    scatter: Float[Tensor, "*run p p"]


def class_statistics(H: Float[Tensor, "*run n p"], Y: Float[Tensor, "*run n q"]) -> ClassStatistics:
    r"""Statistics of one batch of at least one sample; differentiable in H.

    Args:
        H: features, in any precision; everything after their conversion is float64.
        Y: one-hot labels, balanced or not.
    """
    H, Y = H.double(), Y.double()
    counts = Y.sum(dim=-2)
    present = counts > 0
    # Every class is shifted by its first sample: neither an offset common to all nor the distance between classes costs
    # digits, and a collapsed class has exactly its features as its mean and exactly zero around it. The shift drops out
    # of all results, so they need no gradient through it.
    shift = H.detach().take_along_dim(Y.argmax(dim=-2).unsqueeze(-1), dim=-2).where(present.unsqueeze(-1), 0.0)
    labels = Y.argmax(dim=-1)
    Z = H - _rows(shift, labels)
    # No class that is divided here has fewer samples than one.
    offsets = _sums(Z, labels, Y.shape[-1]) / counts.clamp(min=1.0).unsqueeze(-1)
    residual = Z - _rows(offsets, labels)
    squares = residual.square().sum(dim=-1, keepdim=True)
    return ClassStatistics(
        counts=counts,
        means=shift + offsets,
        sums_of_squares=_sums(squares, labels, Y.shape[-1]).squeeze(-1),
        scatter=residual.mT @ residual,
    )


def merge(a: ClassStatistics, b: ClassStatistics) -> ClassStatistics:
    r"""Statistics of the union of two sets of samples, class by class:

    .. math::
        \mu = \mu_a + \tfrac{n_b}{n_a + n_b} \delta, \qquad
        S = S_a + S_b + \tfrac{n_a n_b}{n_a + n_b} \delta\delta^\top, \qquad \delta = \mu_b - \mu_a.

    Exact where one side has no sample of a class; equal means stay exactly equal.
    """
    counts = a.counts + b.counts
    share = b.counts / counts.clamp(min=1.0)  # 0 where neither side has a sample
    delta = b.means - a.means
    weighted = (a.counts * share).sqrt().unsqueeze(-1) * delta
    return ClassStatistics(
        counts=counts,
        means=a.means + share.unsqueeze(-1) * delta,
        sums_of_squares=a.sums_of_squares + b.sums_of_squares + weighted.square().sum(dim=-1),
        scatter=a.scatter + b.scatter + weighted.mT @ weighted,
    )


def mean_deviations(statistics: ClassStatistics) -> Float[Tensor, "*run q p"]:
    r""":math:`\mu_k - \mu`, the class means from the mean of all samples; meaningless for classes without samples.

    Differenced against the largest class: a common offset costs no digits, and means that are all equal give exactly
    zero.
    """
    largest = statistics.counts.argmax(dim=-1)[..., None, None]
    differences = statistics.means - statistics.means.take_along_dim(largest, dim=-2)
    weights = statistics.counts / statistics.counts.sum(dim=-1, keepdim=True)
    return differences - (weights.unsqueeze(-1) * differences).sum(dim=-2, keepdim=True)


# Indexing by label, over all runs at once: a product with one-hot labels would cost q/p of the scatter matrix.


def _flat(labels: Tensor, classes: int) -> Tensor:
    """Labels (*run n) as rows of a matrix of run·q rows."""
    runs = labels.shape[:-1].numel()
    first = classes * torch.arange(runs, device=labels.device)
    return (labels.reshape(runs, -1) + first.unsqueeze(-1)).flatten()


def _rows(per_class: Float[Tensor, "*run q p"], labels: Tensor) -> Float[Tensor, "*run n p"]:
    """The row of its class for every sample."""
    classes, width = per_class.shape[-2:]
    return per_class.reshape(-1, width)[_flat(labels, classes)].reshape(*labels.shape, width)


def _sums(Z: Float[Tensor, "*run n p"], labels: Tensor, classes: int) -> Float[Tensor, "*run q p"]:
    """Sum of the rows of every class."""
    runs, width = labels.shape[:-1], Z.shape[-1]
    sums = Z.new_zeros(runs.numel() * classes, width)
    return sums.index_add(0, _flat(labels, classes), Z.reshape(-1, width)).reshape(*runs, classes, width)
