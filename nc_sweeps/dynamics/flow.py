r"""The flow (20) of an ensemble: gradient flow, its noisy version, and both on mini-batches.

.. math::
    dW = -\nabla_W\,dt, \qquad d\theta_j = -\nabla_{\theta_j}\,dt + \sqrt{2/\beta}\,dB_j

Only the particles :math:`\theta_j = (a_j, u_j)` are noisy. The noise is a function of (seed, step, particle) and a
mini-batch one of (seed, step). So the flow has no memory besides the parameters, the step number and the end of
stage 1.

Algorithm 1 trains in two stages: the head is held at W₀ in the first and moves in the second.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nc_sweeps.dynamics.batches import MiniBatches
from nc_sweeps.dynamics.integrators import Coefficients, Integrator
from nc_sweeps.dynamics.schedule import Schedule
from nc_sweeps.dynamics.steps import Steps
from nc_sweeps.models.mean_field import PARTICLES, MeanFieldNetworks
from nc_sweeps.theory.imbalance import ImbalanceLaw

#: Value of :attr:`Flow.head_start` for a head that is never trained; beyond every step.
NEVER = 2**62


@dataclass(frozen=True)
class Hyperparameters:
    """Numbers that may differ between the runs of an ensemble, one for each run, float64.

    Args:
        seeds: seeds of noise and mini-batches, int64.
        beta: β, infinite without noise.
        lambda_rho, lambda_w: weight decays.
        schedules: steps and step sizes; the steps are common to all runs.
    """

    seeds: Int[Tensor, "run"]
    beta: Float[Tensor, "run"]
    lambda_rho: Float[Tensor, "run"]
    lambda_w: Float[Tensor, "run"]
    schedules: tuple[Schedule, ...]


class Flow(nn.Module):
    """Moves an ensemble, and beside it the imbalance law of the runs whose head moves.

    All its numbers are buffers, so that they move to a device with the ensemble: float64 or int64, whatever the type of
    the networks.

    Args:
        networks: networks in the state from which they start; the flow overwrites their parameters.
        integrator: the one-step method.
        hyperparameters: numbers of the runs.
        batch_size: samples a step; None: all.
        head_start: step after which W moves, one for each run; :data:`NEVER` for a head that is held.

    Attributes:
        law: the imbalance law, from the start or from the end of stage 1 on.
        schedules: steps and step sizes of the runs.
    """

    seeds: Tensor
    head_start: Tensor

    def __init__(
        self,
        networks: MeanFieldNetworks,
        integrator: Integrator,
        hyperparameters: Hyperparameters,
        batch_size: int | None,
        head_start: Int[Tensor, "run"],
    ) -> None:
        super().__init__()
        self.networks = networks
        self.integrator = integrator
        self.schedules = hyperparameters.schedules
        self.batch_size = batch_size
        self.law = ImbalanceLaw(hyperparameters.beta, hyperparameters.lambda_rho, hyperparameters.lambda_w)
        self.law.restart(torch.ones_like(head_start, dtype=torch.bool), networks.second_moment, networks.W)
        self.register_buffer("seeds", hyperparameters.seeds, persistent=False)
        self.register_buffer("head_start", head_start.clone())
        self._minibatches: MiniBatches | None = None

    @torch.no_grad()
    def advance(self, X: Float[Tensor, "run n d"], Y: Float[Tensor, "run n q"], first: int, last: int) -> None:
        """Take steps ``first + 1`` … ``last`` from the state after step ``first``.

        Args:
            X, Y: training set of every run.
        """
        ends = {piece.last for piece in self.schedules[0].pieces} | set(self.head_start.tolist())
        for start, end in pairwise(sorted({first, last} | {step for step in ends if first < step < last})):
            self._advance_piece(X, Y, start, end)

    def head_is_held(self, step: int) -> Bool[Tensor, "run"]:
        """Return for each run whether its head is held up to and including a step."""
        return self.head_start > step

    def release_heads(self, runs: Bool[Tensor, "run"], step: int) -> None:
        """Let the heads of some runs move after a step, if they are still held."""
        self.head_start[runs & self.head_is_held(step)] = step

    def state(self, run: int) -> dict[str, Tensor]:
        """Return all that a run needs to go on from here, besides the step, in main memory.

        The first process gets all particles of the run, any other those that it holds.
        """
        state = {name: Z[run].detach().cpu() for name, Z in self._tensors().items()}
        return state | {name: self.networks.shard.collect(state[name]) for name in PARTICLES}

    @torch.no_grad()
    def restore(self, states: Sequence[dict[str, Tensor]]) -> None:
        """Go on from the states of all runs.

        Args:
            states: what :meth:`state` returned for each run, with the particles of this process only.
        """
        for name, Z in self._tensors().items():
            Z.copy_(torch.stack([state[name] for state in states]))

    def _tensors(self) -> dict[str, Tensor]:
        """Return what changes along the flow, by its name in a state."""
        law = {"law.D": self.law.D, "law.spread": self.law.spread}
        return {**dict(self.networks.named_parameters()), **law, "head_start": self.head_start}

    def _advance_piece(self, X: Float[Tensor, "run n d"], Y: Float[Tensor, "run n q"], first: int, last: int) -> None:
        """Take steps of one step size, during which every head either moves or is held."""
        networks, law = self.networks, self.law
        moving = ~self.head_is_held(first)
        step_sizes = law.beta.new_tensor([schedule.step_size(last) for schedule in self.schedules])
        particles, head = self._coefficients(step_sizes, moving)
        steps = Steps(networks, X, Y, self.seeds, self._batches(X), particles, head)
        trace, follows_head = _second_moment_trace(networks), law.follows_head
        for start, end in pairwise((*range(first, last, steps.choose_steps_per_call(follows_head)), last)):
            before = networks.W.detach().clone()
            heads = steps.take(start, end, follows_head)
            # The law needs W at every step only where it holds the history of W.
            path = _grams(torch.cat([before.unsqueeze(1), heads], dim=1))
            duration = step_sizes if follows_head else (end - start) * step_sizes
            law.advance(duration, (path[:, :-1] + path[:, 1:]) / 2.0)
        law.accumulate((last - first) * step_sizes, (trace + _second_moment_trace(networks)) / 2.0)
        # The law of a run whose head is held begins when the head starts to move.
        law.restart(~moving, networks.second_moment, networks.W)

    def _coefficients(
        self, step_sizes: Float[Tensor, "run"], moving: Bool[Tensor, "run"]
    ) -> tuple[Coefficients, Coefficients]:
        """Return the coefficients of the particles and of the head."""
        law = self.law
        head_steps = torch.where(moving, step_sizes, 0.0)  # a step of size 0 moves nothing
        no_noise = torch.full_like(law.beta, torch.inf)
        return (
            self.integrator.compute_coefficients(step_sizes, law.lambda_rho, law.beta),
            self.integrator.compute_coefficients(head_steps, law.lambda_w, no_noise),
        )

    def _batches(self, X: Float[Tensor, "run n d"]) -> MiniBatches | None:
        """Return the mini-batches of the flow, or None if every step takes all samples."""
        samples = X.shape[1]
        if self.batch_size is None or self.batch_size >= samples:
            return None
        if self._minibatches is None:
            self._minibatches = MiniBatches(self.seeds, samples, self.batch_size)
        return self._minibatches


def _second_moment_trace(networks: MeanFieldNetworks) -> Float[Tensor, "run"]:
    return networks.shard.mean(networks.A.square().sum(dim=(-2, -1), dtype=torch.float64))


def _grams(heads: Float[Tensor, "run steps p q"]) -> Float[Tensor, "run steps p p"]:
    heads = heads.double()
    return heads @ heads.mT
