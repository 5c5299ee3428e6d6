r"""Class statistics of features: all that NC1 (in its five forms), NC2 and NC3 need to know of the samples.

They take O(q p + p²) memory however many samples there are, and those of two sets of samples merge into those of the
union (T. Chan, G. Golub, R. LeVeque, *Updating formulae and a pairwise algorithm for computing sample variances*,
1979). Only squares of differences are ever summed: moments about zero, :math:`\sum h h^\top - n \mu\mu^\top`, lose
their digits exactly when collapse happens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nc_sweeps.metrics.centring import centred


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

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All that there is, in this order."""
        return self.counts, self.means, self.sums_of_squares, self.scatter

    @cached_property
    def deviations(self) -> Float[Tensor, "*run q p"]:
        r""":math:`\mu_k - \mu`, the class means from the mean of all samples; meaningless for classes without samples.

        Differenced against the largest class: a common offset costs no digits, and means that are all equal give
        exactly zero.
        """
        largest = self.counts.argmax(dim=-1)[..., None, None]
        differences = self.means - self.means.take_along_dim(largest, dim=-2)
        weights = self.counts / self.counts.sum(dim=-1, keepdim=True)
        return differences - (weights.unsqueeze(-1) * differences).sum(dim=-2, keepdim=True)

    @cached_property
    def M(self) -> Float[Tensor, "*run q p"]:
        r"""The class means; NaN when a class has no sample."""
        return self.means.where((self.counts > 0).all(dim=-1)[..., None, None], torch.nan)

    @cached_property
    def centred_M(self) -> Float[Tensor, "*run q p"]:
        r""":math:`\tilde M`, each class mean counting once; NaN when a class has no sample."""
        return centred(self.M)


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
    first = Y.max(dim=-2).indices  # the same as argmax, which takes five times as long
    shift = H.detach().take_along_dim(first.unsqueeze(-1), dim=-2).where(present.unsqueeze(-1), 0.0)
    of_class = _row_numbers(Y)
    Z = H - _rows(shift, of_class)
    # No class that is divided here has fewer samples than one.
    offsets = _sums(Z, of_class, Y.shape[-1]) / counts.clamp(min=1.0).unsqueeze(-1)
    residual = Z - _rows(offsets, of_class)
    squares = residual.square() @ H.new_ones(H.shape[-1], 1)  # sum(dim=-1), which is slow for short rows
    return ClassStatistics(
        counts=counts,
        means=shift + offsets,
        sums_of_squares=(Y.mT @ squares).squeeze(-1),
        scatter=residual.mT @ residual,
    )


def one_hot(labels: Int[Tensor, "run n"], classes: int, dtype: torch.dtype) -> Float[Tensor, "run n q"]:
    """Targets Y, one row a sample."""
    return torch.nn.functional.one_hot(labels, classes).to(dtype)


def stack(several: Sequence[ClassStatistics]) -> ClassStatistics:
    """Statistics of several sets of samples of one shape along a new leading axis."""
    return ClassStatistics(*map(torch.stack, zip(*(statistics.parts for statistics in several), strict=True)))


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


# Indexing by label, over all runs at once: a product with one-hot labels would cost q/p of the scatter matrix.


def _row_numbers(Y: Float[Tensor, "*run n q"]) -> Int[Tensor, "*run n"]:
    """Where each sample's class is in a matrix of the classes of all runs, one after another."""
    runs, q = Y.shape[:-2], Y.shape[-1]
    labels = (Y @ torch.arange(q, dtype=Y.dtype, device=Y.device)).long()
    return labels + q * torch.arange(runs.numel(), device=Y.device).view(*runs, 1)


def _rows(per_class: Float[Tensor, "*run q p"], of_class: Int[Tensor, "*run n"]) -> Float[Tensor, "*run n p"]:
    """The row of its class for every sample."""
    width = per_class.shape[-1]
    return per_class.reshape(-1, width).index_select(0, of_class.flatten()).view(*of_class.shape, width)


def _sums(Z: Float[Tensor, "*run n p"], of_class: Int[Tensor, "*run n"], q: int) -> Float[Tensor, "*run q p"]:
    """Sum of the rows of every class."""
    runs, width = Z.shape[:-2], Z.shape[-1]
    sums = Z.new_zeros(runs.numel() * q, width)
    return sums.index_add(0, of_class.flatten(), Z.reshape(-1, width)).view(*runs, q, width)
