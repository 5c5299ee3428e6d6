"""The features of a mean-field ensemble compared with the infinite-width optima of its stage 1."""

import math
from collections.abc import Callable
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nc_sweeps.oracle.dual import OracleError
from nc_sweeps.oracle.gibbs import GibbsOracle
from nc_sweeps.training.feature_view import FeatureView
from nc_sweeps.training.references import References


class OracleView:
    """The features of an ensemble compared with the Gibbs oracles of its runs.

    Args:
        features: features and head of the ensemble.
        references: gives the oracles.
        in_stage_one: whether each run's head is still that of stage 1; only such a run has an oracle.
    """

    def __init__(self, features: FeatureView, references: References, in_stage_one: Bool[Tensor, "run"]) -> None:
        self._features, self._references, self._in_stage_one = features, references, in_stage_one

    def evaluate(self, value: Callable[[int, GibbsOracle], float | Tensor]) -> Float[Tensor, "run"]:
        """Return a number for each run, NaN where it has no oracle.

        Args:
            value: computes the number from the position of a run and its oracle.
        """
        stage = self._in_stage_one
        numbers = torch.full(stage.shape, torch.nan, dtype=torch.float64, device=stage.device)
        for run in stage.nonzero().flatten().tolist():
            oracle = self._references.solve_oracle(run, self._features.W[run])
            if oracle is not None:
                numbers[run] = value(run, oracle)
        return numbers

    @cached_property
    def certified_distances(self) -> Float[Tensor, "run"]:
        """Certified bound of the distance ‖F − F*‖_F/√n of the predictions from the optimum."""
        return self.evaluate(self._certified_distance)

    def _certified_distance(self, run: int, oracle: GibbsOracle) -> float:
        try:
            return oracle.certified_distance(self._features.F[run].cpu()) / math.sqrt(self._features.samples)
        except OracleError:  # the state is too far from the optimum for the oracle's nodes
            return math.nan
