r"""The passes through the first layer, which cost nearly all of a step.

The forward pass takes, for every sample, a mean over the particles of all processes. The backward pass takes, for every
particle of this process, sums over samples:

.. math::
    \sigma(X U^\top) Z / N, \qquad
    \big((B r^\top) \circ \sigma'(X U^\top)^\top\big) X \ \text{ and }\ \sigma(X U^\top)^\top r.

A step makes both. A third pass takes the derivative of the first. Each needs only one block of the activations at a
time, so memory does not grow with n × N.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from nc_sweeps import kernels
from nc_sweeps.activations import Activation
from nc_sweeps.models.shard import Shard

#: Elements of a (run, particle, sample) block of activations, few enough to stay in a core's cache.
BLOCK_ELEMENTS = 2**18
#: Least number of particles in a block: with fewer, matrix products are slow.
MIN_BLOCK_PARTICLES = 64
#: Number of activations that may be kept from the forward to the backward pass where no compiled code makes them.
KEPT_ELEMENTS = 2**25


class FirstLayer:
    r"""Activations :math:`S = \sigma(X U^\top)` of an ensemble on some inputs, never held as a whole.

    Compiled code makes the passes if there is any (:mod:`nc_sweeps.kernels`), else PyTorch's operations. The latter
    keep the activations of a forward pass for the backward pass if they are few.

    Args:
        U: first layer of the particles of this process, (run, own, d).
        X: inputs, (run, n, d).
        activation: σ.
        shard: which particles these are.
    """

    def __init__(
        self, U: Float[Tensor, "run own d"], X: Float[Tensor, "run n d"], activation: Activation, shard: Shard
    ) -> None:
        self.U = U
        self.X = X
        self.activation = activation
        self.shard = shard
        self._compiled = kernels.supports(activation.name, U)
        self._keeps = U.shape[0] * U.shape[1] * X.shape[1] <= KEPT_ELEMENTS
        self._kept: dict[int, Tensor] = {}

    def particle_mean(self, Z: Float[Tensor, "run own k"]) -> Float[Tensor, "run n k"]:
        r"""Return :math:`S Z / N`: for every sample the mean over all particles of :math:`\sigma(u_j^\top x) z_j`."""
        return self.shard.mean(self._particle_sums(Z))

    def _particle_sums(self, Z: Float[Tensor, "run own k"]) -> Float[Tensor, "run n k"]:
        if self._compiled:
            return kernels.particle_sums(self.U, self.X, Z, self.activation.name)
        sums = self.X.new_zeros(*self.X.shape[:2], Z.shape[2])
        for block, S_T in self._blocks():
            sums += torch.bmm(S_T.mT, Z[:, block])
        return sums

    def particle_mean_derivative(
        self, Z: Float[Tensor, "run own k"], dU: Float[Tensor, "run own d"], dZ: Float[Tensor, "run own k"]
    ) -> Float[Tensor, "run n k"]:
        r"""Return the derivative of :meth:`particle_mean` where U and Z move by dU and dZ,
        :math:`\big(S\,dZ + (\sigma'(X U^\top) \circ X dU^\top)\, Z\big) / N`.
        """
        return self.shard.mean(self._particle_sums_derivative(Z, dU, dZ))

    def _particle_sums_derivative(
        self, Z: Float[Tensor, "run own k"], dU: Float[Tensor, "run own d"], dZ: Float[Tensor, "run own k"]
    ) -> Float[Tensor, "run n k"]:
        if self._compiled:
            return kernels.particle_sums_derivative(self.U, self.X, Z, dU, dZ, self.activation.name)
        sums = self.X.new_zeros(*self.X.shape[:2], Z.shape[2])
        for block, S_T in self._blocks():
            sums += torch.bmm(S_T.mT, dZ[:, block])
            dS_T = torch.bmm(dU[:, block], self.X.mT).mul_(self.activation.slope(S_T))
            sums += torch.bmm(dS_T.mT, Z[:, block])
        return sums

    def sample_sums(
        self, B: Float[Tensor, "run own q"], r: Float[Tensor, "run n q"]
    ) -> tuple[Float[Tensor, "run own d"], Float[Tensor, "run own q"]]:
        r"""Return :math:`\big((B r^\top) \circ \sigma'(X U^\top)^\top\big) X` and :math:`S^\top r`."""
        if self._compiled:
            return kernels.sample_sums(self.U, self.X, B, r, self.activation.name)
        slopes, sums = torch.empty_like(self.U), torch.empty_like(B)
        for block, S_T in self._blocks():
            sums[:, block] = torch.bmm(S_T, r)
            delta_T = torch.bmm(B[:, block], r.mT).mul_(self.activation.slope(S_T))
            slopes[:, block] = torch.bmm(delta_T, self.X)
        return slopes, sums

    def _blocks(self) -> Iterator[tuple[slice, Float[Tensor, "run block n"]]]:
        """Yield blocks of particles and their activations, transposed so that products read memory in order."""
        runs, N, n = self.U.shape[0], self.U.shape[1], self.X.shape[1]
        width = max(MIN_BLOCK_PARTICLES, BLOCK_ELEMENTS // (runs * n))
        for start in range(0, N, width):
            block = slice(start, min(start + width, N))
            S_T = self._kept.get(start)
            if S_T is None:
                S_T = self.activation.value(torch.bmm(self.U[:, block], self.X.mT))
                if self._keeps:
                    self._kept[start] = S_T
            yield block, S_T
