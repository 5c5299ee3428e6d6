r"""Class statistics of features: all that NC1 (in its five forms), NC2 and NC3 need to know about the samples.

They take O(q p + p²) memory for any number of samples, and the statistics of two sets of samples merge into those of
their union (T. Chan, G. Golub, R. LeVeque, *Updating formulae and a pairwise algorithm for computing sample variances*,
1979). Only squares of differences are summed: moments about zero, :math:`\sum h h^\top - n \mu\mu^\top`, lose
their digits exactly when collapse happens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nc_sweeps.metrics.centring import centre


@dataclass(frozen=True)
class ClassStatistics:
    r"""Sizes, means and scatter of the features of q classes, in float64; leading axes (runs) are batched.

    Args:
        counts: sizes :math:`n_k` of the classes.
        means: class means :math:`\mu_k`, one row a class; 0 for a class without samples.
        sums_of_squares: :math:`\sum_{i \in k} \|h_i - \mu_k\|^2`, one number a class.
        scatter: :math:`\sum_k \sum_{i \in k} (h_i - \mu_k)(h_i - \mu_k)^\top`, summed over all classes.
    """

    counts: Float[Tensor, "*run q"]
    means: Float[Tensor, "*run q p"]
    sums_of_squares: Float[Tensor, "*run q"]
    scatter: Float[Tensor, "*run p p"]

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Counts, means, sums of squares and scatter."""
        return self.counts, self.means, self.sums_of_squares, self.scatter

    @cached_property
    def deviations(self) -> Float[Tensor, "*run q p"]:
        r"""Class means minus the mean of all samples, :math:`\mu_k - \mu`; meaningless for classes without samples.

        The mean of the largest class is subtracted first, so that a common offset costs no digits and means that are
        all equal give exactly zero.
        """
        largest = self.counts.argmax(dim=-1)[..., None, None]
        differences = self.means - self.means.take_along_dim(largest, dim=-2)
        weights = self.counts / self.counts.sum(dim=-1, keepdim=True)
        return differences - (weights.unsqueeze(-1) * differences).sum(dim=-2, keepdim=True)

    @cached_property
    def M(self) -> Float[Tensor, "*run q p"]:
        r"""Matrix M of the class means, one row a class; NaN when a class has no sample."""
        return self.means.where((self.counts > 0).all(dim=-1)[..., None, None], torch.nan)

    @cached_property
    def centred_M(self) -> Float[Tensor, "*run q p"]:
        r"""Class means minus their mean, :math:`\tilde M`; NaN when a class has no sample."""
        return centre(self.M)


def class_statistics(H: Float[Tensor, "*run n p"], Y: Float[Tensor, "*run n q"]) -> ClassStatistics:
    r"""Return the statistics of a batch of at least one sample; they are differentiable in H.

    Args:
        H: features in any precision, which are converted to float64 first.
        Y: one-hot labels, balanced or not.
    """
    H, Y = H.double(), Y.double()
    counts = Y.sum(dim=-2)
    present = counts > 0
    # Every class is shifted by its first sample, so that neither a common offset nor the distance between classes costs
    # digits, and a collapsed class has exactly its features as its mean and exactly zero scatter. No result depends on
    # the shift, so that none needs a gradient through it.
    first = Y.max(dim=-2).indices  # five times as fast as argmax, with the same result
    shift = H.detach().take_along_dim(first.unsqueeze(-1), dim=-2).where(present.unsqueeze(-1), 0.0)
    class_rows = _find_class_rows(Y)
    Z = H - _take_rows(shift, class_rows)
    offsets = _sum_by_class(Z, class_rows, Y.shape[-1]) / counts.clamp(min=1.0).unsqueeze(-1)
    residual = Z - _take_rows(offsets, class_rows)
    squares = residual.square() @ H.new_ones(H.shape[-1], 1)  # faster than sum(dim=-1) for short rows
    return ClassStatistics(
        counts=counts,
        means=shift + offsets,
        sums_of_squares=(Y.mT @ squares).squeeze(-1),
        scatter=residual.mT @ residual,
    )


def one_hot(labels: Int[Tensor, "run n"], classes: int, dtype: torch.dtype) -> Float[Tensor, "run n q"]:
    """Return the one-hot targets Y, one row a sample."""
    return torch.nn.functional.one_hot(labels, classes).to(dtype)


def stack(several: Sequence[ClassStatistics]) -> ClassStatistics:
    """Stack the statistics of several sets of samples along a new leading axis."""
    return ClassStatistics(*map(torch.stack, zip(*(statistics.parts for statistics in several), strict=True)))


def merge(a: ClassStatistics, b: ClassStatistics) -> ClassStatistics:
    r"""Return the statistics of the union of two sets of samples, class by class:

    .. math::
        \mu = \mu_a + \tfrac{n_b}{n_a + n_b} \delta, \qquad
        S = S_a + S_b + \tfrac{n_a n_b}{n_a + n_b} \delta\delta^\top, \qquad \delta = \mu_b - \mu_a.

    They are exact where one side has no sample of a class, and equal means stay exactly equal.
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


# Sums and rows are indexed by label. Products with one-hot labels would cost a share q/p of the scatter matrix.


def _find_class_rows(Y: Float[Tensor, "*run n q"]) -> Int[Tensor, "*run n"]:
    """Return the row of each sample's class in a matrix with the classes of all runs, one run after another."""
    runs, q = Y.shape[:-2], Y.shape[-1]
    labels = (Y @ torch.arange(q, dtype=Y.dtype, device=Y.device)).long()
    return labels + q * torch.arange(runs.numel(), device=Y.device).view(*runs, 1)


def _take_rows(Z: Float[Tensor, "*run q p"], class_rows: Int[Tensor, "*run n"]) -> Float[Tensor, "*run n p"]:
    """Return for every sample the row of its class."""
    width = Z.shape[-1]
    return Z.reshape(-1, width).index_select(0, class_rows.flatten()).view(*class_rows.shape, width)


def _sum_by_class(Z: Float[Tensor, "*run n p"], class_rows: Int[Tensor, "*run n"], q: int) -> Float[Tensor, "*run q p"]:
    """Return the sum of the rows of every class."""
    runs, width = Z.shape[:-2], Z.shape[-1]
    sums = Z.new_zeros(runs.numel() * q, width)
    return sums.index_add(0, class_rows.flatten(), Z.reshape(-1, width)).view(*runs, q, width)
