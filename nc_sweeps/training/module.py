"""Runs as modules that Lightning trains, and segments of steps as the data that it iterates over."""

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
from nc_sweeps.dynamics.stability import Stability
from nc_sweeps.models.mean_field import MeanFieldNetworks
from nc_sweeps.training.measurements import measure
from nc_sweeps.training.references import References
from nc_sweeps.training.snapshot import Snapshot


class Segments(pl.LightningDataModule):
    """Stretches of steps that are trained without interruption, each as its (first, last) step.

    Args:
        steps: increasing steps at which training pauses; it starts at the first.
    """

    def __init__(self, steps: Sequence[int]) -> None:
        super().__init__()
        self.steps = steps

    def train_dataloader(self) -> DataLoader[tuple[int, int]]:
        """Return a loader with one batch for each segment."""
        segments: Any = list(pairwise(self.steps))
        return DataLoader(segments, batch_size=None, collate_fn=tuple)


class RunsModule(pl.LightningModule, ABC):
    """Runs that train at once. One training step takes all steps of a segment.

    Attributes:
        step: number of steps taken.
    """

    step: int

    @property
    @abstractmethod
    def schedules(self) -> Sequence[Schedule]:
        """Schedule of each run."""

    @abstractmethod
    def measure(self, names: Sequence[str]) -> dict[str, list[float]]:
        """Return metrics of the catalogue by name, each with one number for every run."""

    @abstractmethod
    def state(self, run: int) -> dict[str, Tensor]:
        """Return all that a run needs to go on from here, besides the step."""

    @abstractmethod
    def extinguish_diverged(self) -> list[bool]:
        """Set all parameters of every run of which one is infinite or NaN to zero, where they can do no harm.

        Returns:
            Whether each run was found diverged.
        """


class FlowModule(RunsModule):
    """A flow of networks of particles, and their data. One training step advances the flow by a segment.

    Args:
        flow: the flow, with the networks at step ``step``.
        X, Y: inputs and one-hot targets of the training set.
        X_test, Y_test: inputs and one-hot targets of the test set.
        step: number of steps taken.
        references: margins and oracles with which measurements are compared.
        stage_one_distance: for each run the certified distance to the optimum of stage 1 at which the stage ends; NaN:
            it ends at no distance.
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
        self.stability = Stability(flow)
        buffers = {"X": X, "Y": Y, "X_test": X_test, "Y_test": Y_test, "stage_one_distance": stage_one_distance}
        for name, tensor in buffers.items():  # buffers move to the device
            self.register_buffer(name, tensor, persistent=False)

    def configure_optimizers(self) -> None:
        """Return no optimiser: the flow has integrators of its own."""

    def training_step(self, segment: tuple[int, int], batch_idx: int) -> None:
        """Take the steps of a segment, and release the heads of runs that have come close enough to the optimum."""
        first, last = segment
        self.flow.advance(self.X, self.Y, first, last)
        self.step = last
        if bool((self.flow.head_is_held(last) & ~self.stage_one_distance.isnan()).any()):
            arrived = self.take_snapshot().oracle.certified_distances <= self.stage_one_distance
            # Unlike devices may round a distance differently, but all processes must release a head at the same step.
            self.flow.release_heads(self.networks.shard.any(arrived), last)

    @property
    def networks(self) -> MeanFieldNetworks:
        """The networks of the flow."""
        return self.flow.networks

    @property
    def schedules(self) -> Sequence[Schedule]:
        """Schedule of each run."""
        return self.flow.schedules

    def measure(self, names: Sequence[str]) -> dict[str, list[float]]:
        """Return metrics of the catalogue by name, each with one number for every run."""
        return measure(self.take_snapshot(), names)

    def state(self, run: int) -> dict[str, Tensor]:
        """Return all that a run needs to go on from here: the state of the flow, and what measurements remember."""
        return self.flow.state(run) | self.stability.state(run)

    def restore(self, states: Sequence[dict[str, Tensor]]) -> None:
        """Go on from the states of all runs.

        Args:
            states: what :meth:`state` returned for each run, with the particles of this process only.
        """
        self.flow.restore(states)
        self.stability.restore(states)

    def take_snapshot(self) -> Snapshot:
        """Return the present state, ready to be measured."""
        return Snapshot(
            networks=self.networks,
            X=self.X,
            Y=self.Y,
            X_test=self.X_test,
            Y_test=self.Y_test,
            flow=self.flow,
            step=self.step,
            references=self.references,
            stability=self.stability,
        )

    def extinguish_diverged(self) -> list[bool]:
        """Set all parameters of every run of which one is infinite or NaN to zero, where they can do no harm.

        Runs never mix in the flow, but LAPACK refuses a whole batch of matrices for one NaN.

        Returns:
            Whether each run was found diverged.
        """
        diverged = self.networks.shard.any(~torch.stack([*map(_are_finite, self.networks.parameters())]).all(dim=0))
        runs = diverged.nonzero().flatten()  # a mask would have every parameter read and written
        for parameter in self.networks.parameters():
            parameter.index_fill_(0, runs, 0.0)
        return diverged.tolist()


def _are_finite(Z: Float[Tensor, "run *_"]) -> Tensor:
    """Return whether all numbers of each run are finite. A finite sum proves it thirty times as fast."""
    if Z.sum().isfinite():
        return torch.ones(len(Z), dtype=torch.bool, device=Z.device)
    return Z.isfinite().flatten(1).all(dim=1)
