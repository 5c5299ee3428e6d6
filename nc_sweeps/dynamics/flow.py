r"""The flow (20) on an ensemble: gradient flow, its noisy version, and both on mini-batches.

.. math::
    dW = -\nabla_W\,dt, \qquad d\theta_j = -\nabla_{\theta_j}\,dt + \sqrt{2/\beta}\,dB_j

Only the particles :math:`\theta_j = (a_j, u_j)` are noisy. All noise and all mini-batches are functions of
(seed, step), so the flow has no memory besides the parameters and the step number.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nc_sweeps.counters import Stream, normals, permutations
from nc_sweeps.dynamics.gradients import LossGradients, loss_gradients
from nc_sweeps.dynamics.integrators import Coefficients, Integrator
from nc_sweeps.dynamics.schedule import Schedule
from nc_sweeps.models.mean_field import MeanFieldEnsemble


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
    """Advances an ensemble in place.

    Args:
        integrator: the one-step method.
        hyperparameters: of the runs.
        batch_size: samples a step; None: all.
        train_head: whether W moves.
    """

    def __init__(
        self, integrator: Integrator, hyperparameters: Hyperparameters, batch_size: int | None, train_head: bool
    ) -> None:
        self.integrator = integrator
        self.hyperparameters = hyperparameters
        self.batch_size = batch_size
        self.train_head = train_head
        self._epoch = -1
        self._order = torch.empty(0)

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
        for piece in self.hyperparameters.schedules[0].pieces:
            start, end = max(first, piece.first), min(last, piece.last)
            if start < end:
                particles, head = self._coefficients(end, ensemble.U)
                for step in range(start + 1, end + 1):
                    gradients = loss_gradients(ensemble, *self._batch(X, Y, step))
                    self._update(ensemble, gradients, particles, head, step)

    def _coefficients(self, step: int, like: Tensor) -> tuple[Coefficients, Coefficients]:
        """Coefficients of the particles and of the head."""
        hyper = self.hyperparameters
        step_sizes = hyper.step_sizes(step)
        particles = self.integrator.coefficients(step_sizes, hyper.lambda_rho, hyper.beta)
        head = self.integrator.coefficients(step_sizes, hyper.lambda_w, torch.full_like(hyper.beta, torch.inf))
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
        if self.train_head:
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
