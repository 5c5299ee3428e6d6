r"""The flow (20) on an ensemble: gradient flow, its noisy version, and both on mini-batches.

.. math::
    dW = -\nabla_W\,dt, \qquad d\theta_j = -\nabla_{\theta_j}\,dt + \sqrt{2/\beta}\,dB_j

Only the particles :math:`\theta_j = (a_j, u_j)` are noisy. All noise and all mini-batches are functions of
(seed, step), so the flow has no memory besides the parameters, the step number and when stage 1 ended.

Algorithm 1 trains in two stages: the head is held at W₀ in the first and moves in the second.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nc_sweeps.dynamics.batches import MiniBatches
from nc_sweeps.dynamics.integrators import Coefficients, Integrator
from nc_sweeps.dynamics.schedule import Schedule
from nc_sweeps.dynamics.steps import Steps
from nc_sweeps.models.mean_field import MeanFieldEnsemble
from nc_sweeps.theory.imbalance import ImbalanceLaw

#: Value of :attr:`Flow.head_start` for a head that is never trained; beyond every step.
NEVER = 2**62


@dataclass(frozen=True)
class Hyperparameters:
    """What may differ from run to run within an ensemble; one number a run, float64.

    Args:
        seeds: of noise and mini-batches, int64.
        beta: β, infinite without noise.
        lambda_rho, lambda_w: weight decays.
        schedules: steps and step sizes; the steps are common to all runs.
    """

    seeds: Int[Tensor, "run"]
    beta: Float[Tensor, "run"]
    lambda_rho: Float[Tensor, "run"]
    lambda_w: Float[Tensor, "run"]
    schedules: tuple[Schedule, ...]

    def step_sizes(self, step: int) -> Float[Tensor, "run"]:
        """η of every run at a step."""
        return torch.tensor([schedule.step_size(step) for schedule in self.schedules], dtype=torch.float64)


class Flow:
    """Advances an ensemble in place, and beside it the imbalance law of the runs whose head moves.

    Args:
        integrator: the one-step method.
        hyperparameters: of the runs.
        batch_size: samples a step; None: all.
        head_start: step after which W moves, one a run; :data:`NEVER` for a head that is held.

    Attributes:
        law: the imbalance law, from the start or from the end of stage 1 on.
    """

    def __init__(
        self,
        integrator: Integrator,
        hyperparameters: Hyperparameters,
        batch_size: int | None,
        head_start: Int[Tensor, "run"],
    ) -> None:
        self.integrator = integrator
        self.hyperparameters = hyperparameters
        self.batch_size = batch_size
        self.head_start = head_start
        self.law = ImbalanceLaw(hyperparameters.beta, hyperparameters.lambda_rho, hyperparameters.lambda_w)
        self._minibatches: MiniBatches | None = None

    def begin(self, ensemble: MeanFieldEnsemble) -> None:
        """Let the imbalance law of every run begin at a state."""
        self.law.restart(torch.ones_like(self.head_start, dtype=torch.bool), ensemble.second_moment, ensemble.W)

    @torch.no_grad()
    def advance(
        self,
        ensemble: MeanFieldEnsemble,
        X: Float[Tensor, "run n d"],
        Y: Float[Tensor, "run n q"],
        first: int,
        last: int,
    ) -> None:
        """Take steps ``first + 1`` … ``last``.

        Args:
            ensemble: state after step ``first``; overwritten by the state after step ``last``.
            X, Y: training set of every run.
        """
        if self.law.D.numel() == 0:
            self.begin(ensemble)
        ends = {piece.last for piece in self.hyperparameters.schedules[0].pieces} | set(self.head_start.tolist())
        for start, end in pairwise(sorted({first, last} | {step for step in ends if first < step < last})):
            self._stretch(ensemble, X, Y, start, end)

    def head_is_held(self, step: int) -> Bool[Tensor, "run"]:
        """Whether each head is held up to and including a step."""
        return self.head_start > step

    def _stretch(
        self,
        ensemble: MeanFieldEnsemble,
        X: Float[Tensor, "run n d"],
        Y: Float[Tensor, "run n q"],
        first: int,
        last: int,
    ) -> None:
        """Steps of one step size, in which every head either moves or is held."""
        moving = ~self.head_is_held(first)
        step_sizes = self.hyperparameters.step_sizes(last)
        particles, head = self._coefficients(step_sizes, moving)
        steps = Steps(ensemble, X, Y, self.hyperparameters.seeds, self._batches(X), particles, head)
        trace = _second_moment_trace(ensemble)
        durations, follows_head = step_sizes.to(trace.device), self.law.follows_head
        for start, end in pairwise((*range(first, last, steps.at_once(follows_head)), last)):
            before = ensemble.W.detach().clone()
            heads = steps.take(start, end, follows_head)
            # Only where it holds the history of W does the law need W at every step.
            path = _grams(torch.cat([before.unsqueeze(1), heads], dim=1))
            duration = durations if follows_head else (end - start) * durations
            self.law.advance(duration, (path[:, :-1] + path[:, 1:]) / 2.0)
        stretch = (last - first) * durations
        self.law.accumulate(stretch, (trace + _second_moment_trace(ensemble)) / 2.0)
        # A run whose head is held has its law begin when the head starts to move.
        self.law.restart((~moving).to(trace.device), ensemble.second_moment, ensemble.W)

    def _coefficients(
        self, step_sizes: Float[Tensor, "run"], moving: Bool[Tensor, "run"]
    ) -> tuple[Coefficients, Coefficients]:
        """Coefficients of the particles and of the head."""
        hyper = self.hyperparameters
        head_steps = torch.where(moving, step_sizes, 0.0)  # a step of size 0 moves nothing
        no_noise = torch.full_like(hyper.beta, torch.inf)
        return (
            self.integrator.coefficients(step_sizes, hyper.lambda_rho, hyper.beta),
            self.integrator.coefficients(head_steps, hyper.lambda_w, no_noise),
        )

    def _batches(self, X: Float[Tensor, "run n d"]) -> MiniBatches | None:
        """The mini-batches of the flow, None where every step takes all samples."""
        samples = X.shape[1]
        if self.batch_size is None or self.batch_size >= samples:
            return None
        if self._minibatches is None:
            self._minibatches = MiniBatches(self.hyperparameters.seeds.to(X.device), samples, self.batch_size)
        return self._minibatches


def _second_moment_trace(ensemble: MeanFieldEnsemble) -> Float[Tensor, "run"]:
    return ensemble.shard.mean(ensemble.A.square().sum(dim=(-2, -1), dtype=torch.float64))


def _grams(heads: Float[Tensor, "run steps p q"]) -> Float[Tensor, "run steps p p"]:
    heads = heads.double()
    return heads @ heads.mT
