"""Schedule: a horizon and a piecewise constant step size as numbered steps."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from nc_sweeps.config import DynamicsConfig, FlowConfig, MetricsConfig
from nc_sweeps.errors import ConfigError

# The counters of the noise hold 56 bits of the step; a longer run would not end anyway.
_MOST_STEPS = 2**50


@dataclass(frozen=True)
class Piece:
    """Steps ``first + 1`` … ``last``, all of one step size."""

    first: int
    last: int
    step_size: float


@dataclass(frozen=True)
class Schedule:
    """The steps of a run.

    Args:
        pieces: consecutive, from step 0 to the last.
        steps_per_epoch: mini-batches in one pass over the training set.
        stage_one: largest number of steps for which the head is held (Algorithm 1); 0: it moves from the start.
    """

    pieces: tuple[Piece, ...]
    steps_per_epoch: int
    stage_one: int = 0

    @classmethod
    def of(cls, dynamics: DynamicsConfig, training_samples: int) -> "Schedule":
        """Resolve the horizon into steps.

        Args:
            dynamics: horizon, its unit, step sizes.
            training_samples: n; with the batch size it gives the number of steps of an epoch.

        Raises:
            ConfigError: the horizon is shorter than one step.
        """
        batch = min(dynamics.batch_size or training_samples, training_samples)
        per_epoch = -(-training_samples // batch)
        sizes = [dynamics.step_size, *(change.step_size for change in dynamics.schedule)]
        marks = [*(change.after for change in dynamics.schedule), 1.0]

        pieces: list[Piece] = []
        first, time = 0, 0.0
        for mark, size in zip(marks, sizes, strict=True):
            if dynamics.horizon_unit == "time":
                last = first + round((mark * dynamics.horizon - time) / size)  # the step nearest to the mark
            else:
                unit = per_epoch if dynamics.horizon_unit == "epochs" else 1
                last = round(mark * dynamics.horizon * unit)
            if last > first:
                pieces.append(Piece(first, last, size))
                time += (last - first) * size
                first = last
        horizon = f"dynamics.horizon={dynamics.horizon:g} {dynamics.horizon_unit}"
        if not pieces:
            raise ConfigError(f"{horizon}: must be long enough for one step")
        if first > _MOST_STEPS:
            raise ConfigError(f"{horizon}: {first:.0e} steps; must be at most {_MOST_STEPS:.0e}")
        schedule = cls(tuple(pieces), per_epoch)
        unit = per_epoch if dynamics.horizon_unit == "epochs" else 1
        by_time = dynamics.horizon_unit == "time"
        stage_one = dynamics.stage_one if isinstance(dynamics, FlowConfig) else 0.0
        held = schedule._step_at(stage_one) if by_time else round(stage_one * unit)
        return cls(schedule.pieces, per_epoch, min(held, schedule.total))

    @property
    def total(self) -> int:
        """Number of steps."""
        return self.pieces[-1].last

    def step_size(self, step: int) -> float:
        """Return η of a step, 1 … total."""
        return next(piece.step_size for piece in self.pieces if piece.first < step <= piece.last)

    def time(self, step: int) -> float:
        """Return the sum of the step sizes of steps 1 … step."""
        return math.fsum(
            piece.step_size * (min(step, piece.last) - piece.first) for piece in self.pieces if piece.first < step
        )

    def _step_at(self, time: float) -> int:
        """Return the step that ends nearest to a time."""
        for piece in self.pieces:
            steps = round(time / piece.step_size)
            if piece.first + steps <= piece.last:
                return piece.first + steps
            time -= (piece.last - piece.first) * piece.step_size
        return self.total

    def epoch(self, step: int) -> float:
        """Return the number of passes over the training set after a step."""
        return step / self.steps_per_epoch

    def measurements(self, metrics: MetricsConfig) -> list[int]:
        """Return the steps at which to measure, increasing; among them are 0, the end of stage 1 and the last."""
        chosen: Iterable[float]
        if metrics.spacing == "epochs":
            chosen = range(0, self.total, metrics.every * self.steps_per_epoch)
        elif metrics.spacing == "linear":
            chosen = np.linspace(0, self.total, metrics.points).round()
        else:
            chosen = np.geomspace(self.total, 1, metrics.points - 1).round()
        return sorted({0, self.stage_one, self.total} | {int(step) for step in chosen})
