r"""Neural collapse over batches and processes, as metrics for any training loop.

.. code-block:: python

    collapse = NeuralCollapse(classes=10, dimension=512, head=lambda: model.fc.weight.mT)
    for x, labels in train_loader:
        collapse.update(features(x), labels)
    values = collapse.compute()  # {"nc1": ..., "nc2_simplex_angle": ..., "nc3_duality": ...}

    agreement = NearestClassCentre(collapse.statistics)  # a second pass: the centres come before the samples
    for x, _ in test_loader:
        agreement.update(features(x), model(x))
    nc4 = agreement.compute()

One pass, O(q p + p²) memory, float64 whatever the precision of the features. Values are those of the union of all
batches, in any order; between processes they are synchronised by torchmetrics.
"""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from nc_sweeps.metrics import collapse
from nc_sweeps.metrics.statistics import ClassStatistics, class_statistics, merge

_OF_FEATURES: tuple[Callable[[ClassStatistics], Tensor], ...] = (
    collapse.nc1,
    collapse.nc1_trace_ratio,
    collapse.nc1_pseudo_inverse,
    collapse.nc1_cdnv,
    collapse.nc1_cdnv_worst,
    collapse.nc2_norm_variation,
    collapse.nc2_simplex_angle,
    collapse.nc2_simplex_distance,
    collapse.nc2_frame_norm_variation,
    collapse.nc2_frame_angle,
    collapse.nc2_frame_distance,
)
_OF_FEATURES_AND_HEAD: tuple[Callable[[ClassStatistics, Tensor], Tensor], ...] = (
    collapse.nc3_duality,
    collapse.nc3_frame_duality,
    collapse.nc3_misalignment,
    collapse.nc3_product_distance,
)


def measures(statistics: ClassStatistics, W: Tensor | None = None) -> dict[str, Tensor]:
    """NC1, NC2 and, with a head W (p q), NC3 by the name of their function in :mod:`nc_sweeps.metrics.collapse`."""
    values = {measure.__name__: measure(statistics) for measure in _OF_FEATURES}
    if W is not None:
        values |= {measure.__name__: measure(statistics, W) for measure in _OF_FEATURES_AND_HEAD}
    return values


class _DoublePrecision(Metric):
    """A metric whose states follow a change of device and ignore one of precision, in which collapse would drown."""

    full_state_update = False

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> torch.nn.Module:
        # Torchmetrics ignores half() on its own, but neither to(torch.float16) nor set_dtype().
        device = fn(torch.empty(0, dtype=torch.float64, device=self.device)).device
        return super()._apply(lambda state: state.to(device), *args, **kwargs)


class NeuralCollapse(_DoublePrecision):
    """NC1 (five forms), NC2 and, with a head, NC3 of all features seen since the last reset.

    Args:
        classes: q, at least 2.
        dimension: p, of the features.
        head: returns the linear head W (p q) when values are computed, so that it is never an old one; for a
            ``torch.nn.Linear`` ``lambda: model.fc.weight.mT``. A metric is pickled with its head, for which a lambda
            will not do.
        options: of torchmetrics, such as ``sync_on_compute``.

    Raises:
        ValueError: fewer than two classes, no dimension.
    """

    is_differentiable = True
    packed: Float[Tensor, "size"]

    def __init__(self, classes: int, dimension: int, head: Callable[[], Tensor] | None = None, **options: Any) -> None:
        super().__init__(**options)
        if classes < 2 or dimension < 1:
            raise ValueError(f"classes={classes}, dimension={dimension}: at least 2 classes and 1 dimension are needed")
        self.classes, self.dimension, self.head = classes, dimension, head
        # One tensor, because a reduction sees one state at a time, and no part can be merged without the others.
        size = classes * (dimension + 2) + dimension**2
        self.add_state(
            "packed",
            torch.zeros(size, dtype=torch.float64),
            dist_reduce_fx=partial(_merged, classes=classes, dimension=dimension),
        )

    def update(self, H: Tensor, labels: Tensor) -> None:
        """Take in a batch.

        Args:
            H: features (b p), of any floating point type.
            labels: class of each sample (b), 0 to q − 1, of any integer type.

        Raises:
            ValueError: other shapes or types, or labels out of range.
        """
        _check_matrix("H", H, self.dimension)
        if labels.shape != H.shape[:1] or labels.is_floating_point() or labels.is_complex():
            raise ValueError(
                f"labels: expected {len(H)} integers, one a row of H, not {labels.dtype} of shape {tuple(labels.shape)}"
            )
        if not len(labels):
            return
        labels = labels.long()
        if labels.min() < 0 or labels.max() >= self.classes:
            raise ValueError(
                f"labels: expected 0 to {self.classes - 1}, found {int(labels.min())} to {int(labels.max())}"
            )
        Y = torch.nn.functional.one_hot(labels, self.classes).double()
        self.packed = _pack(merge(self.statistics, class_statistics(H, Y)))

    @property
    def statistics(self) -> ClassStatistics:
        """Class statistics of what this process has seen; of what all have, ``with metric.sync_context():``."""
        return _unpack(self.packed, self.classes, self.dimension)

    def compute(self) -> dict[str, Tensor]:
        """Values by the name of their function in :mod:`nc_sweeps.metrics.collapse`, which has the formulas; those that
        ``forward`` returns are differentiable in the features of the batch, and not in the head.

        Raises:
            ValueError: the head is not (p q).
        """
        if self.head is None:
            return measures(self.statistics)
        W = self.head().detach()
        if W.shape != (self.dimension, self.classes):
            raise ValueError(
                f"head: expected W of shape {(self.dimension, self.classes)}, not {tuple(W.shape)}; the weight of "
                "a torch.nn.Linear is its transpose"
            )
        return measures(self.statistics, W)


class NearestClassCentre(_DoublePrecision):
    """NC4: the share of samples for which the classifier is not the rule of the nearest class centre.

    Args:
        statistics: where the class centres are from, such as ``NeuralCollapse.statistics`` after a pass over the
            training set. They have to be complete before the first sample is compared with them: hence a metric
            of its own.
        options: of torchmetrics, such as ``sync_on_compute``.

    Raises:
        ValueError: statistics of several runs.
    """

    centres: Float[Tensor, "q p"]
    disagreements: Float[Tensor, ""]
    samples: Float[Tensor, ""]

    def __init__(self, statistics: ClassStatistics, **options: Any) -> None:
        super().__init__(**options)
        if statistics.means.ndim != 2:
            raise ValueError(f"statistics: expected means of shape (q, p), not {tuple(statistics.means.shape)}")
        # A state, though it never changes: a MetricCollection takes metrics with equal states for one and the same.
        self.add_state("centres", collapse.centres(statistics).detach(), dist_reduce_fx=_first)
        zero = torch.zeros((), dtype=torch.float64, device=statistics.means.device)
        self.add_state("disagreements", zero, dist_reduce_fx="sum")
        self.add_state("samples", zero.clone(), dist_reduce_fx="sum")

    def update(self, H: Tensor, F: Tensor) -> None:
        """Take in a batch.

        Args:
            H: features (b p).
            F: scores of the classifier (b q).

        Raises:
            ValueError: other shapes or types.
        """
        q, p = self.centres.shape
        _check_matrix("H", H, p)
        _check_matrix("F", F, q)
        if len(H) != len(F):
            raise ValueError(f"F: expected {len(H)} rows, one a row of H, not {len(F)}")
        self.disagreements = self.disagreements + collapse.disagreements(H, F, self.centres).sum()
        self.samples = self.samples + len(H)

    def compute(self) -> Tensor:
        """NC4; NaN without samples, or where :func:`nc_sweeps.metrics.collapse.nc4` is."""
        return self.disagreements / self.samples


def _check_matrix(name: str, Z: Tensor, width: int) -> None:
    if Z.ndim != 2 or Z.shape[1] != width or not Z.is_floating_point():
        raise ValueError(
            f"{name}: expected floating point numbers of shape (b, {width}), not {Z.dtype} of shape {tuple(Z.shape)}"
        )


def _pack(statistics: ClassStatistics) -> Float[Tensor, "size"]:
    return torch.cat([part.flatten() for part in statistics.parts])


def _unpack(packed: Float[Tensor, "size"], classes: int, dimension: int) -> ClassStatistics:
    counts, means, squares, scatter = torch.split(packed, [classes, classes * dimension, classes, dimension**2])
    return ClassStatistics(counts, means.view(classes, dimension), squares, scatter.view(dimension, dimension))


def _merged(packed: Float[Tensor, "parts size"], classes: int, dimension: int) -> Float[Tensor, "size"]:
    """Of several processes, or of the past and a batch."""
    return _pack(reduce(merge, (_unpack(part, classes, dimension) for part in packed)))


def _first(stacked: Float[Tensor, "parts q p"]) -> Float[Tensor, "q p"]:
    """All parts are the same."""
    return stacked[0]
