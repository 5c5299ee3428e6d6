"""Steps of the package."""

import torch

from benchmarks.problem import STEP_SIZE, Problem
from nc_sweeps.activations import ACTIVATIONS
from nc_sweeps.dynamics.flow import Flow, Hyperparameters
from nc_sweeps.dynamics.integrators import INTEGRATORS
from nc_sweeps.dynamics.schedule import Piece, Schedule
from nc_sweeps.models.mean_field import MeanFieldNetworks

#: More steps than any benchmark takes.
_ENDLESS = 10**9


class Ours:
    """:class:`nc_sweeps.dynamics.flow.Flow` as training calls it: many steps a call, the imbalance law included."""

    def __init__(self, problem: Problem) -> None:
        runs = problem.runs
        self.X, self.Y = problem.data
        self.networks = MeanFieldNetworks(*problem.state(), torch.ones(runs), ACTIVATIONS["tanh"])
        decay = torch.full((runs,), problem.decay, dtype=torch.float64)
        hyperparameters = Hyperparameters(
            seeds=torch.arange(runs),
            beta=torch.full((runs,), problem.beta, dtype=torch.float64),
            lambda_rho=decay,
            lambda_w=decay,
            schedules=(Schedule((Piece(0, _ENDLESS, STEP_SIZE),), -(-problem.n // problem.samples)),) * runs,
        )
        no_stage_one = torch.zeros(runs, dtype=torch.int64)
        self.flow = Flow(self.networks, INTEGRATORS["euler_maruyama"], hyperparameters, problem.batch, no_stage_one)
        self.step = 0

    def take(self, steps: int) -> None:
        """Take some steps."""
        self.flow.advance(self.X, self.Y, self.step, self.step + steps)
        self.step += steps

    def state(self) -> tuple[torch.Tensor, ...]:
        """Return U, A and W."""
        return self.networks.U, self.networks.A, self.networks.W
