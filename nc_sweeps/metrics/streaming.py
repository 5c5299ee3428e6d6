r"""Neural collapse over batches and processes, as metrics for any training loop.

.. code-block:: python

    collapse = NeuralCollapse(classes=10, dimension=512, head=lambda: model.fc.weight.mT)
    for x, labels in train_loader:
        collapse.update(features(x), labels)
    values = collapse.compute()  # {"nc1": ..., "nc2_simplex_angle": ..., "nc3_duality": ...}

    agreement = NearestClassCentre(collapse.statistics)  # takes a second pass, because it needs the centres
    for x, _ in test_loader:
        agreement.update(features(x), model(x))
    nc4 = agreement.compute()

They take one pass and O(q p + p²) memory, and compute in float64 whatever the precision of the features. Values are
those of the union of all batches, in any order. Torchmetrics synchronises them between processes.
"""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from nc_sweeps.metrics import collapse
from nc_sweeps.metrics.collapse_measures import COLLAPSE_MEASURES, function_name
from nc_sweeps.metrics.statistics import ClassStatistics, class_statistics, merge

#: The function of each measure of collapse, by the measure's name in the catalogue.
_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    name: getattr(collapse, function_name(name)) for name in COLLAPSE_MEASURES
}


def measure_collapse(statistics: ClassStatistics, W: Tensor | None = None) -> dict[str, Tensor]:
    """Return NC1, NC2 and, with a head W (p q), NC3 by their names in the catalogue, as ``nc1/cdnv``."""
    values = {}
    for name, measure in COLLAPSE_MEASURES.items():
        if not measure.needs_head:
            values[name] = _FUNCTIONS[name](statistics)
        elif W is not None:
            values[name] = _FUNCTIONS[name](statistics, W)
    return values


class _DoublePrecision(Metric):
    """A metric whose states follow a change of device but stay in double precision: any other would lose collapse."""

    full_state_update = False

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> torch.nn.Module:
        # Torchmetrics itself ignores half(), but neither to(torch.float16) nor set_dtype().
        device = fn(torch.empty(0, dtype=torch.float64, device=self.device)).device
        return super()._apply(lambda state: state.to(device), *args, **kwargs)


class NeuralCollapse(_DoublePrecision):
    """NC1 (five forms), NC2 and, with a head, NC3 of all features seen since the last reset.

    Args:
        classes: q, at least 2.
        dimension: p, the number of features.
        head: function that returns the linear head W (p q). It is called when values are computed, so that W is up to
            date. For a ``torch.nn.Linear`` it is ``lambda: model.fc.weight.mT``. A metric is pickled with its head,
            and a lambda cannot be pickled.
        options: options of torchmetrics, such as ``sync_on_compute``.

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
        # One tensor holds all parts, because a reduction sees one state at a time and merging needs all parts.
        size = classes * (dimension + 2) + dimension**2
        self.add_state(
            "packed",
            torch.zeros(size, dtype=torch.float64),
            dist_reduce_fx=partial(_merge_packed, classes=classes, dimension=dimension),
        )

    def update(self, H: Tensor, labels: Tensor) -> None:
        """Add a batch.

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
        """Class statistics of the samples of this process; within ``metric.sync_context()``, of those of all."""
        return _unpack(self.packed, self.classes, self.dimension)

    def compute(self) -> dict[str, Tensor]:
        """Return each measure by the name of its function in :mod:`nc_sweeps.metrics.collapse`, which has the formulas.

        Values that ``forward`` returns are differentiable in the features of the batch, but not in the head.

        Raises:
            ValueError: the head is not (p q).
        """
        W = None if self.head is None else self.head().detach()
        if W is not None and W.shape != (self.dimension, self.classes):
            raise ValueError(
                f"head: expected W of shape {(self.dimension, self.classes)}, not {tuple(W.shape)}; the weight of "
                "a torch.nn.Linear is its transpose"
            )
        return {function_name(name): value for name, value in measure_collapse(self.statistics, W).items()}


class NearestClassCentre(_DoublePrecision):
    """NC4: the share of samples for which the classifier is not the rule of the nearest class centre.

    Args:
        statistics: statistics that give the class centres, such as ``NeuralCollapse.statistics`` after a pass over the
            training set. The centres have to be complete before the first sample is compared with them, hence this
            second metric.
        options: options of torchmetrics, such as ``sync_on_compute``.

    Raises:
        ValueError: the statistics are those of several runs.
    """

    centres: Float[Tensor, "q p"]
    disagreements: Float[Tensor, ""]
    samples: Float[Tensor, ""]

    def __init__(self, statistics: ClassStatistics, **options: Any) -> None:
        super().__init__(**options)
        if statistics.means.ndim != 2:
            raise ValueError(f"statistics: expected means of shape (q, p), not {tuple(statistics.means.shape)}")
        # The centres never change, but are a state: a MetricCollection treats metrics with equal states as one metric.
        self.add_state("centres", collapse.centres(statistics).detach(), dist_reduce_fx=_take_first)
        zero = torch.zeros((), dtype=torch.float64, device=statistics.means.device)
        self.add_state("disagreements", zero, dist_reduce_fx="sum")
        self.add_state("samples", zero.clone(), dist_reduce_fx="sum")

    def update(self, H: Tensor, F: Tensor) -> None:
        """Add a batch.

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
        """Return NC4, NaN without samples and where :func:`nc_sweeps.metrics.collapse.nc4` is NaN."""
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


def _merge_packed(packed: Float[Tensor, "parts size"], classes: int, dimension: int) -> Float[Tensor, "size"]:
    """Merge the packed statistics of several processes, or of earlier batches and a new one."""
    return _pack(reduce(merge, (_unpack(part, classes, dimension) for part in packed)))


def _take_first(stacked: Float[Tensor, "parts q p"]) -> Float[Tensor, "q p"]:
    """Return the centres of the first process, which are those of all."""
    return stacked[0]
