"""Steps of an ensemble with fixed coefficients, in compiled code or in PyTorch's operations."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nc_sweeps import kernels
from nc_sweeps.counters import Stream, normals
from nc_sweeps.dynamics.batches import MiniBatches
from nc_sweeps.dynamics.gradients import compute_loss_gradients
from nc_sweeps.dynamics.integrators import Coefficients
from nc_sweeps.models.mean_field import MeanFieldNetworks
from nc_sweeps.models.truncation import limits

#: Multiply-adds of one call of the compiled code, about a second: no signal is answered before it returns.
_WORK_A_CALL = 5e10
#: Most numbers that the mini-batches of one call may take, or its heads.
_RECORD_A_CALL = 2**22


@dataclass
class Steps:
    """Takes steps of the flow.

    Args:
        networks: networks, which each step overwrites.
        X, Y: training set of every run.
        seeds: seeds of the noise, on the device of the networks.
        batches: samples of each step; None: all.
        particles, head: coefficients of a step.
    """

    networks: MeanFieldNetworks
    X: Float[Tensor, "run n d"]
    Y: Float[Tensor, "run n q"]
    seeds: Int[Tensor, "run"]
    batches: MiniBatches | None
    particles: Coefficients
    head: Coefficients

    def choose_steps_per_call(self, record_heads: bool) -> int:
        """Return the largest number of steps that one call of :meth:`take` should take."""
        runs, n, d = self.X.shape
        p, q = self.networks.W.shape[1:]
        batch = self.batches.size if self.batches else n
        work = runs * batch * self.networks.U.shape[1] * (2 * d + 3 * q)
        record = runs * max(batch if self.batches else 1, p * p if record_heads else 1)
        return max(1, int(min(_WORK_A_CALL / work, _RECORD_A_CALL / record)))

    def take(self, first: int, last: int, record_heads: bool) -> Float[Tensor, "run steps p q"]:
        """Take steps ``first + 1`` … ``last``.

        Returns:
            The heads after every step if they are recorded, else after the last.
        """
        network = self.networks
        if self._is_compiled and network.shard.is_whole:  # else every step needs sums of other processes
            heads = network.W.new_empty(network.runs, last - first, *network.W.shape[1:]) if record_heads else None
            self._take_compiled(first, last, heads)
            return network.W.detach().clone().unsqueeze(1) if heads is None else heads
        path = []
        counter = torch.tensor(first, device=network.U.device)
        for step in range(first + 1, last + 1):
            self.take_one(counter.add_(1), *self._samples(step))
            if record_heads or step == last:
                path.append(network.W.detach().clone())
        return torch.stack(path, dim=1)

    @cached_property
    def _is_compiled(self) -> bool:
        return kernels.supports(self.networks.activation.name, self.networks.U)

    def _take_compiled(self, first: int, last: int, heads: Tensor | None) -> None:
        network = self.networks
        order, position = self.batches.along(first, last) if self.batches else (None, 0)
        kernels.advance(
            network.U,
            network.A,
            network.W,
            self.X,
            self.Y,
            activation=network.activation.name,
            gamma=network.gamma,
            truncation=limits(network.truncation),
            particle_coefficients=torch.stack(
                [self.particles.growth, self.particles.gradient, self.particles.noise], dim=1
            ),
            head_coefficients=torch.stack([self.head.growth, self.head.gradient], dim=1),
            seeds=self.seeds,
            first=first,
            last=last,
            order=order,
            batch=self.batches.size if self.batches else 0,
            position=position,
            heads=heads,
        )

    def take_one(self, step: Int[Tensor, ""], X: Float[Tensor, "run b d"], Y: Float[Tensor, "run b q"]) -> None:
        """Take a step on some samples in PyTorch's operations.

        On a GPU everything happens there: from the second step on nothing is sent to it or read back, so that it never
        waits for the CPU. No operation depends on a value, and the number of the step is a tensor.

        Args:
            step: number of the step, 1 for the first.
            X, Y: the samples.
        """
        network = self.networks
        gradients = compute_loss_gradients(network, X, Y)
        (growth, rate, noise), head = self._coefficients
        # The increment is summed before it is added: the parameters are rounded once a step.
        dA = (growth * network.A).sub_(rate * gradients.A)
        dU = (growth * network.U).sub_(rate * gradients.U)
        if self._is_noisy:
            p = network.A.shape[2]
            xi = self._noise(step)
            dA.add_(noise * xi[..., :p])
            dU.add_(noise * xi[..., p:])
        network.A.add_(dA)
        network.U.add_(dU)
        growth, rate, _ = head
        network.W.add_((growth * network.W).sub_(rate * gradients.W))

    @cached_property
    def _coefficients(self) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
        """Coefficients of particles and head, on the device of the networks."""
        return self.particles.like(self.networks.U), self.head.like(self.networks.W)

    @cached_property
    def _is_noisy(self) -> bool:
        return bool(self.particles.noise.any())

    @cached_property
    def _indices(self) -> Int[Tensor, "own"]:
        """Numbers of the particles of this process, on the device of the networks."""
        return self.networks.shard.indices.to(self.networks.U.device)

    def _noise(self, step: Int[Tensor, ""]) -> Float[Tensor, "run own p_plus_d"]:
        U, own = self.networks.U, self.networks.shard.own
        components = self.networks.A.shape[2] + U.shape[2]
        if self._is_compiled:
            which = (int(step), own.start, own.stop - own.start)
            return torch.stack([kernels.normals(seed, *which, components, U.dtype) for seed in self.seeds.tolist()])
        return normals(self.seeds, Stream.NOISE, step, self._indices, components, U.dtype)

    def _samples(self, step: int) -> tuple[Float[Tensor, "run b d"], Float[Tensor, "run b q"]]:
        if self.batches is None:
            return self.X, self.Y
        runs = torch.arange(len(self.X), device=self.X.device)[:, None]
        chosen = self.batches.of(step)
        return self.X[runs, chosen], self.Y[runs, chosen]
