"""The particles of a mean-field ensemble as a cloud: moments, entropies and gradients."""

from collections.abc import Callable
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nc_sweeps.dynamics.gradients import Linearisation
from nc_sweeps.metrics.centring import square_norm
from nc_sweeps.models.mean_field import MeanFieldNetworks
from nc_sweeps.theory import free_energy
from nc_sweeps.theory.stationarity import kernel_gradient_discrepancy

#: Number of particles that the kernel gradient discrepancy takes. They are exchangeable, so it takes the first.
KGD_PARTICLES = 256
#: Largest dimension of a particle in which the nearest-neighbour entropy is a useful estimate.
_ESTIMATE_DIMENSIONS = 8
#: Number of float64 values of several runs that are computed at once.
_ELEMENTS_AT_ONCE = 2**18


class ParticleCloud:
    """The particles θ_j = (a_j, u_j) of an ensemble, of which every process holds its own.

    Args:
        networks: the networks.
        lambda_rho: weight decay of the particles.
        beta: inverse temperature.
        linearisation: gradients of the loss; None if no metric needs them.
    """

    def __init__(
        self,
        networks: MeanFieldNetworks,
        lambda_rho: Float[Tensor, "run"],
        beta: Float[Tensor, "run"],
        linearisation: Linearisation | None,
    ) -> None:
        self._networks, self._lambda_rho, self._beta = networks, lambda_rho, beta
        self._known_linearisation = linearisation

    @property
    def dimension(self) -> int:
        """Dimension D = p + d of a particle."""
        return self._networks.A.shape[-1] + self._networks.U.shape[-1]

    @cached_property
    def second_moment(self) -> Float[Tensor, "run p p"]:
        """Second moment Ā = AᵀA/N of the second layer."""
        return self._networks.second_moment

    @cached_property
    def square_mean(self) -> Float[Tensor, "run"]:
        """Mean of ‖θ_j‖² over particles."""
        return self._mean_square(self._networks.A, self._networks.U)

    @cached_property
    def entropy_bounds(self) -> Float[Tensor, "run 2"]:
        """Upper bounds of the particles' entropy: by the Gaussian of equal covariance, NaN for N ≤ D, and by that of
        equal total variance.
        """
        shard, N = self._networks.shard, self._networks.particles

        def bound(theta: Float[Tensor, "some own D"]) -> Float[Tensor, "some 2"]:
            D = theta.shape[-1]
            if D >= N:
                isotropic = free_energy.moment_entropy_bound(shard.mean(square_norm(theta)) * N / (N - 1), D)
                return torch.stack([torch.full_like(isotropic, torch.nan), isotropic], dim=-1)
            covariance = shard.mean(theta.mT @ theta) * N / (N - 1)
            isotropic = free_energy.moment_entropy_bound(covariance.diagonal(dim1=-2, dim2=-1).sum(dim=-1), D)
            return torch.stack([free_energy.gaussian_entropy_bound(covariance, N), isotropic], dim=-1)

        return self._map_centred(bound)

    def estimate_entropy(self) -> Float[Tensor, "run"]:
        """Estimate the particles' entropy by nearest neighbours; NaN in many dimensions."""
        if self.dimension > _ESTIMATE_DIMENSIONS:
            return torch.full_like(self._beta, torch.nan)
        shard = self._networks.shard

        def estimate(theta: Float[Tensor, "some own D"]) -> Float[Tensor, "some"]:
            clouds = shard.collect_leading(theta, shard.particles)
            return torch.stack([free_energy.nearest_neighbour_entropy(cloud) for cloud in clouds])

        return self._map_centred(estimate)

    def measure_gradient(self, layer: Literal["A", "U"]) -> Float[Tensor, "run"]:
        """Return the root mean square over particles of the gradient in one layer, weight decay included."""
        return self._mean_square(self._gradients[layer]).sqrt()

    @property
    def score_free_residual(self) -> Float[Tensor, "run"]:
        r"""Residual of stationarity that is free of the unknown score, :math:`\|R\|_F/\sqrt n` with
        :math:`R = \mathrm{mean}_j \sigma(Xu_j)\nabla_{a_j}^\top`.
        """
        R = self._linearisation.R
        return (square_norm(R.double()) / R.shape[1]).sqrt()

    @property
    def kgd_squared(self) -> Float[Tensor, "run"]:
        """Squared kernel gradient discrepancy of a sub-sample, NaN without noise.

        It is computed in the network's own precision: float32 takes a quarter of the time, and its error is a millionth
        of that of the sub-sample.
        """
        if self._beta.isinf().all():
            return torch.full_like(self._beta, torch.nan)
        network, gradients = self._networks, self._gradients
        layers = (network.A, network.U, gradients["A"], gradients["U"])
        A, U, g_A, g_U = (network.shard.collect_leading(Z, KGD_PARTICLES) for Z in layers)
        theta = torch.cat([A, U], dim=-1)
        score = -self._beta[:, None, None].to(theta.dtype) * torch.cat([g_A, g_U], dim=-1)
        some = max(1, _ELEMENTS_AT_ONCE // theta.shape[1] ** 2)  # runs, whose kernel matrices fit into the cache
        parts = zip(torch.split(theta, some), torch.split(score, some), strict=True)
        discrepancy = torch.cat([kernel_gradient_discrepancy(*part) for part in parts])
        return torch.where(self._beta.isinf(), torch.nan, discrepancy)

    @property
    def _linearisation(self) -> Linearisation:
        if self._known_linearisation is None:
            raise RuntimeError("there are no gradients: a metric has to say that it needs them when it is registered")
        return self._known_linearisation

    @cached_property
    def _gradients(self) -> dict[Literal["A", "U"], Float[Tensor, "run own k"]]:
        """Gradients in a_j and in u_j by layer, weight decay included, in the network's own precision."""
        network, gradients = self._networks, self._linearisation
        decay = self._lambda_rho[:, None, None].to(network.A.dtype)
        return {
            "A": torch.addcmul(gradients.A, decay, network.A),
            "U": torch.addcmul(gradients.U, decay, network.U),
        }

    def _mean_square(self, *arrays: Float[Tensor, "run own _"]) -> Float[Tensor, "run"]:
        """Return the mean over particles of the squares of their rows, in float64: float32 sums would lose digits."""
        lengths = [torch.linalg.vector_norm(Z, dim=-1).double() for Z in arrays]
        return self._networks.shard.mean(torch.stack(lengths).square().sum(dim=(0, -1)))

    def _map_centred(
        self, function: Callable[[Float[Tensor, "some own D"]], Float[Tensor, "..."]]
    ) -> Float[Tensor, "..."]:
        """Apply a function to the centred particles of all runs, of one large run or of some small ones at a time, so
        that few are held in float64.
        """
        A, U, shard = self._networks.A, self._networks.U, self._networks.shard
        # Counted over all particles, so that processes which hold one more or less take the same runs at a time.
        some = max(1, _ELEMENTS_AT_ONCE // (shard.particles * self.dimension))
        values = []
        for layers in zip(torch.split(A, some), torch.split(U, some), strict=True):
            theta = torch.cat(layers, dim=-1).double()
            values.append(function(theta.sub_(shard.mean(theta.sum(dim=-2, keepdim=True)))))
        return torch.cat(values)
