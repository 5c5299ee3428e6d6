"""What Lightning trains: steps as its data, and runs as its modules, those of particles among them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader

from nc_sweeps.dynamics.flow import Flow
from nc_sweeps.dynamics.schedule import Schedule
from nc_sweeps.models.mean_field import MeanFieldEnsemble
from nc_sweeps.training.measurements import measure
from nc_sweeps.training.references import References
from nc_sweeps.training.snapshot import Snapshot


class Segments(pl.LightningDataModule):
    """What Lightning iterates over: stretches of the flow from one measurement to the next, as (first, last) step.

    Args:
        steps: increasing steps at which to measure; the flow starts at the first.
    """

    def __init__(self, steps: Sequence[int]) -> None:
        super().__init__()
        self.steps = steps

    def train_dataloader(self) -> DataLoader[tuple[int, int]]:
        """One batch a segment."""
        segments: Any = list(pairwise(self.steps))
        return DataLoader(segments, batch_size=None, collate_fn=tuple)


class RunsModule(pl.LightningModule, ABC):
    """Runs that train at once. One training step takes all steps of a segment.

    Attributes:
        step: steps already taken.
    """

    step: int

    @property
    @abstractmethod
    def schedules(self) -> Sequence[Schedule]:
        """Of each run."""

    @abstractmethod
    def measure(self, names: Sequence[str]) -> dict[str, list[float]]:
        """Metrics of the catalogue: one number a run."""

    @abstractmethod
    def state(self, run: int) -> dict[str, Tensor]:
        """All that a run needs to go on from here, besides the step."""

    @abstractmethod
    def extinguish_diverged(self) -> list[bool]:
        """Set all numbers of every run that left the finite ones to zero, where they can do no harm.

        Returns:
            Whether each run was found diverged.
        """


class FlowModule(RunsModule):
    """An ensemble, its data and its flow. One training step advances the flow to the next measurement.

    Args:
        flow: the networks at step ``step`` and how they move.
        X, Y: training set, one-hot targets.
        X_test, Y_test: test set.
        step: steps already taken.
        references: what measurements are held against.
        stage_one_distance: certified distance to the optimum of stage 1 that ends it, one a run; NaN: none does.
    """

    X: Tensor
    Y: Tensor
    X_test: Tensor
    Y_test: Tensor
    stage_one_distance: Tensor

    def __init__(
        self,
        flow: Flow,
        X: Float[Tensor, "run n d"],
        Y: Float[Tensor, "run n q"],
        X_test: Float[Tensor, "run n_test d"],
        Y_test: Float[Tensor, "run n_test q"],
        step: int,
        references: References,
        stage_one_distance: Float[Tensor, "run"],
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.flow = flow
        self.step = step
        self.references = references
        buffers = {"X": X, "Y": Y, "X_test": X_test, "Y_test": Y_test, "stage_one_distance": stage_one_distance}
        for name, tensor in buffers.items():  # which move to the device
            self.register_buffer(name, tensor, persistent=False)

    def configure_optimizers(self) -> None:
        """No optimiser: the flow has its own integrators."""

    def training_step(self, segment: tuple[int, int], batch_idx: int) -> None:
        """Advance from the segment's first to its last step, and let the heads go that have waited long enough."""
        first, last = segment
        self.flow.advance(self.X, self.Y, first, last)
        self.step = last
        if bool((self.flow.head_is_held(last) & ~self.stage_one_distance.isnan()).any()):
            arrived = self.snapshot().oracle.certified_distances <= self.stage_one_distance
            # Processors that differ may round a distance differently; all heads must go together.
            self.flow.release_heads(self.ensemble.shard.any(arrived), last)

    @property
    def ensemble(self) -> MeanFieldEnsemble:
        """The networks."""
        return self.flow.ensemble

    @property
    def schedules(self) -> Sequence[Schedule]:
        """Of each run."""
        return self.flow.schedules

    def measure(self, names: Sequence[str]) -> dict[str, list[float]]:
        """Metrics of the catalogue: one number a run."""
        return measure(self.snapshot(), names)

    def state(self, run: int) -> dict[str, Tensor]:
        """Return all that a run needs to go on from here, as :meth:`Flow.state` gives it."""
        return self.flow.state(run)

    def snapshot(self) -> Snapshot:
        """The present state, ready to be measured."""
        return Snapshot(
            ensemble=self.ensemble,
            X=self.X,
            Y=self.Y,
            X_test=self.X_test,
            Y_test=self.Y_test,
            flow=self.flow,
            step=self.step,
            references=self.references,
        )

    def extinguish_diverged(self) -> list[bool]:
        """Set the parameters of every run that left the finite numbers to zero, where they can do no harm.

        Runs never mix in the flow, but LAPACK refuses a whole batch of matrices for one NaN.

        Returns:
            Whether each run was found diverged.
        """
        diverged = self.ensemble.shard.any(~torch.stack([*map(_finite, self.ensemble.parameters())]).all(dim=0))
        runs = diverged.nonzero().flatten()  # a mask would have every parameter read and written
        for parameter in self.ensemble.parameters():
            parameter.index_fill_(0, runs, 0.0)
        return diverged.tolist()


def _finite(Z: Float[Tensor, "run *_"]) -> Tensor:
    """Whether all numbers of each run are finite. Their sum, found thirty times as fast, is so only if they are."""
    if Z.sum().isfinite():
        return torch.ones(len(Z), dtype=torch.bool, device=Z.device)
    return Z.isfinite().flatten(1).all(dim=1)
