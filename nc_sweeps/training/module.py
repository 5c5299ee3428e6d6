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

#: What of a run's state has a row a particle; of all else every process has the same.
PARTICLES = ("U", "A")


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
        ensemble: the networks at step ``step``.
        flow: how they move.
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

    def __init__(
        self,
        ensemble: MeanFieldEnsemble,
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
        self.ensemble = ensemble
        self.flow = flow
        flow.begin(ensemble)
        self.law = flow.law  # as a submodule, so that it moves to the device
        self.step = step
        self.references = references
        self.stage_one_distance = stage_one_distance
        # Buffers move to the device and take the precision of the parameters.
        for name, tensor in {"X": X, "Y": Y, "X_test": X_test, "Y_test": Y_test}.items():
            self.register_buffer(name, tensor, persistent=False)

    def configure_optimizers(self) -> None:
        """No optimiser: the flow has its own integrators."""

    def training_step(self, segment: tuple[int, int], batch_idx: int) -> None:
        """Advance from the segment's first to its last step, and let the heads go that have waited long enough."""
        first, last = segment
        self.flow.advance(self.ensemble, self.X, self.Y, first, last)
        self.step = last
        if bool((self.flow.held(last) & ~self.stage_one_distance.isnan()).any()):
            arrived = self.snapshot().certified_distances <= self.stage_one_distance
            # Processors that differ may round a distance differently; all heads must go together.
            arrived = self.ensemble.shard.anywhere(arrived)
            self.flow.head_start[arrived & self.flow.held(last)] = last

    @property
    def schedules(self) -> Sequence[Schedule]:
        """Of each run."""
        return self.flow.hyperparameters.schedules

    def measure(self, names: Sequence[str]) -> dict[str, list[float]]:
        """Metrics of the catalogue: one number a run."""
        return measure(self.snapshot(), names)

    def state(self, run: int) -> dict[str, Tensor]:
        """All that a run needs to go on from here, besides the step; with all its particles in the first process, and
        with those held here in any other.
        """
        tensors = {**dict(self.ensemble.named_parameters()), "law.D": self.law.D, "law.spread": self.law.spread}
        state = {name: Z[run].detach().cpu() for name, Z in (tensors | {"head_start": self.flow.head_start}).items()}
        return state | {name: self.ensemble.shard.collected(state[name]) for name in PARTICLES}

    def restore(self, states: Sequence[dict[str, Tensor]]) -> None:
        """Go on from the states of all runs, as :meth:`state` gave them, with the particles held here."""
        stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}
        for name, parameter in self.ensemble.named_parameters():
            parameter.copy_(stacked[name])
        self.law.D, self.law.spread = stacked["law.D"], stacked["law.spread"]
        self.flow.head_start = stacked["head_start"]

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
        diverged = self.ensemble.shard.anywhere(~torch.stack([*map(_finite, self.ensemble.parameters())]).all(dim=0))
        runs = diverged.nonzero().flatten()  # a mask would have every parameter read and written
        for parameter in self.ensemble.parameters():
            parameter.index_fill_(0, runs, 0.0)
        return diverged.tolist()


def _finite(Z: Float[Tensor, "run *_"]) -> Tensor:
    """Whether all numbers of each run are finite. Their sum, found thirty times as fast, is so only if they are."""
    if Z.sum().isfinite():
        return torch.ones(len(Z), dtype=torch.bool, device=Z.device)
    return Z.isfinite().flatten(1).all(dim=1)
