"""Margins and infinite-width optima, which do not change along a run."""

import math
import sys
from collections.abc import Sequence
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from nc_sweeps.activations import ACTIVATIONS
from nc_sweeps.config import RunConfig
from nc_sweeps.data import Dataset
from nc_sweeps.metrics.statistics import one_hot
from nc_sweeps.oracle.dual import GibbsProblem, OracleError
from nc_sweeps.oracle.gibbs import GibbsOracle, solve_stage_one


class References:
    """Margins of the training sets and Gibbs oracles of runs, each computed when first asked for.

    Args:
        configs: configurations of the runs.
        datasets: data sets of the runs.
    """

    def __init__(self, configs: Sequence[RunConfig], datasets: Sequence[Dataset]) -> None:
        self.configs = configs
        self.datasets = datasets
        self._oracles: dict[int, GibbsOracle | None] = {}

    @cached_property
    def margins(self) -> Float[Tensor, "run"]:
        """Margin of every run's training set."""
        return torch.tensor([dataset.margin for dataset in self.datasets], dtype=torch.float64)

    def solve_oracle(self, run: int, W: Float[Tensor, "p q"]) -> GibbsOracle | None:
        """Return the infinite-width optimum of a run whose head is held at W; None if there is no such optimum (without
        noise or weight decay, or with a truncation) or if it cannot be computed, which is printed once.
        """
        if run not in self._oracles:
            self._oracles[run] = self._solve(run, W)
        return self._oracles[run]

    def _solve(self, run: int, W: Float[Tensor, "p q"]) -> GibbsOracle | None:
        config, train = self.configs[run], self.datasets[run].train
        dynamics, model = config.dynamics, config.model
        if math.isinf(dynamics.beta) or dynamics.lambda_rho == 0.0 or math.isfinite(model.truncation):
            return None
        try:
            problem = GibbsProblem(
                X=torch.from_numpy(train.x),
                Y=one_hot(torch.from_numpy(train.labels)[None], self.datasets[run].classes, torch.float64)[0],
                W=W.cpu(),
                gamma=model.gamma,
                lambda_rho=dynamics.lambda_rho,
                beta=dynamics.beta,
                activation=ACTIVATIONS[model.activation],
            )
            return solve_stage_one(problem)
        except OracleError as error:
            print(f"no Gibbs oracle for a run: {error}", file=sys.stderr)
            return None
