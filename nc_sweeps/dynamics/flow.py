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

from nc_sweeps.counters import Stream, normals, permutations
from nc_sweeps.dynamics.gradients import LossGradients, loss_gradients
from nc_sweeps.dynamics.integrators import Coefficients, Integrator
from nc_sweeps.dynamics.schedule import Schedule
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
        self._epoch = -1
        self._order = torch.empty(0)

    def begin(self, ensemble: MeanFieldEnsemble) -> None:
        """Let the imbalance law of every run begin at a state."""
        self.law.restart(torch.ones_like(self.head_start, dtype=torch.bool), ensemble.A, ensemble.W)

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

    def held(self, step: int) -> Bool[Tensor, "run"]:
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
        moving = ~self.held(first)
        step_sizes = self.hyperparameters.step_sizes(last)
        particles, head = self._coefficients(step_sizes, moving, ensemble.U)
        trace, gram = _second_moment_trace(ensemble), _gram(ensemble)
        durations, follows_head = step_sizes.to(trace.device), self.law.follows_head
        for step in range(first + 1, last + 1):
            gradients = loss_gradients(ensemble, *self._batch(X, Y, step))
            self._update(ensemble, gradients, particles, head, step)
            # Only where it holds the history of W does the law need W at every step.
            if follows_head:
                before, gram = gram, _gram(ensemble)
                self.law.advance(durations, (before + gram) / 2.0)
        stretch = (last - first) * durations
        if not follows_head:
            self.law.advance(stretch, gram)
        self.law.accumulate(stretch, (trace + _second_moment_trace(ensemble)) / 2.0)
        # A run whose head is held has its law begin when the head starts to move.
        self.law.restart((~moving).to(trace.device), ensemble.A, ensemble.W)

    def _coefficients(
        self, step_sizes: Float[Tensor, "run"], moving: Bool[Tensor, "run"], like: Tensor
    ) -> tuple[Coefficients, Coefficients]:
        """Coefficients of the particles and of the head."""
        hyper = self.hyperparameters
        particles = self.integrator.coefficients(step_sizes, hyper.lambda_rho, hyper.beta)
        head_steps = torch.where(moving, step_sizes, 0.0)  # a step of size 0 moves nothing
        head = self.integrator.coefficients(head_steps, hyper.lambda_w, torch.full_like(hyper.beta, torch.inf))
        return particles.like(like), head.like(like)

    def _update(
        self,
        ensemble: MeanFieldEnsemble,
        gradients: LossGradients,
        particles: Coefficients,
        head: Coefficients,
        step: int,
    ) -> None:
        # The increment is summed before it is added: the parameters are rounded once a step.
        dA = (particles.growth * ensemble.A).sub_(particles.gradient * gradients.A)
        dU = (particles.growth * ensemble.U).sub_(particles.gradient * gradients.U)
        if not self.hyperparameters.beta.isinf().all():
            p = ensemble.A.shape[2]
            xi = self._noise(ensemble, step)
            dA.add_(particles.noise * xi[..., :p])
            dU.add_(particles.noise * xi[..., p:])
        ensemble.A.add_(dA)
        ensemble.U.add_(dU)
        ensemble.W.add_((head.growth * ensemble.W).sub_(head.gradient * gradients.W))

    def _noise(self, ensemble: MeanFieldEnsemble, step: int) -> Float[Tensor, "run N p_plus_d"]:
        device = ensemble.U.device
        return normals(
            self.hyperparameters.seeds.to(device),
            Stream.NOISE,
            step,
            torch.arange(ensemble.particles, device=device),
            ensemble.A.shape[2] + ensemble.U.shape[2],
            ensemble.U.dtype,
        )

    def _batch(
        self, X: Float[Tensor, "run n d"], Y: Float[Tensor, "run n q"], step: int
    ) -> tuple[Float[Tensor, "run b d"], Float[Tensor, "run b q"]]:
        """Samples of a step: each epoch runs once through a fresh permutation, its last batch may be short."""
        n = X.shape[1]
        if self.batch_size is None or self.batch_size >= n:
            return X, Y
        epoch, position = divmod(step - 1, self.hyperparameters.schedules[0].steps_per_epoch)
        if epoch != self._epoch:
            self._order = permutations(self.hyperparameters.seeds.to(X.device), Stream.BATCHES, epoch, n)
            self._epoch = epoch
        chosen = self._order[:, position * self.batch_size : (position + 1) * self.batch_size]
        runs = torch.arange(len(X), device=X.device)[:, None]
        return X[runs, chosen], Y[runs, chosen]


def _second_moment_trace(ensemble: MeanFieldEnsemble) -> Float[Tensor, "run"]:
    return ensemble.A.square().sum(dim=(-2, -1), dtype=torch.float64) / ensemble.particles


def _gram(ensemble: MeanFieldEnsemble) -> Float[Tensor, "run p p"]:
    W = ensemble.W.double()
    return W @ W.mT
