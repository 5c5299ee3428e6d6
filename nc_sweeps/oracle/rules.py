r"""Where the nodes of a Gibbs law have to be: the trapezoid rule on the cells that hold it, or quasi-random points with
many near it.

All coordinates are whitened, :math:`z = (\beta\lambda)^{1/2} u`, standard normal where there is no loss, and along the
principal directions of the inputs.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nc_sweeps.oracle.dual import Dual, GibbsProblem, OracleError
from nc_sweeps.oracle.nodes import CELL, SCRAMBLES, Nodes, directions, lattice, scrambled_sobol

#: Largest dimension of the trapezoid rule.
MAX_TRAPEZOID_DIMENSION = 3

#: A law ends where its density is e⁻³⁷ of the largest, 1e-16. Nodes go further, so that they serve for laws nearby.
_LOG_END = 37.0
_LOG_MARGIN = 6.0
#: Rays along which a law is followed, by dimension, and the ratio of successive radii on them.
_RAYS = {1: 16, 2: 128, 3: 1024}
_RADIUS_RATIO = 1.05
#: How far the law of an activation without bound is followed.
_MAX_RADIUS = 1e3
#: Cells among which those of a law are sought.
_MAX_CELLS = 2**22
#: Points whose activations are formed at a time.
_BLOCK_POINTS = 2**14
#: Cells count from here, for keys that are not negative.
_OFFSET = 2**20


@dataclass(frozen=True)
class Trapezoid:
    """The trapezoid rule on the cells that hold a law and on all cells around.

    Args:
        held: keys of the cells that hold the law.
        dimension: k ≤ 3.
        divisions: of the side of a cell.
    """

    held: Int[Tensor, "held"]
    dimension: int
    divisions: int

    @classmethod
    def first(cls, problem: GibbsProblem) -> "Trapezoid":
        """A coarse rule where there is no loss."""
        return cls(_sought(problem, torch.zeros_like(problem.Y), _LOG_END + _LOG_MARGIN), problem.dimension, 1)

    @cached_property
    def cells(self) -> Int[Tensor, "cells k"]:
        """The held cells and all around."""
        keys = self.held
        for axis in range(self.dimension):
            keys = torch.unique(torch.cat([keys, keys - _stride(axis), keys + _stride(axis)]))
        return torch.stack([keys // _stride(axis) % _stride(1) - _OFFSET for axis in range(self.dimension)], dim=1)

    @property
    def size(self) -> int:
        """Number of nodes."""
        return len(self.cells) * int(self.divisions**self.dimension)

    def nodes(self) -> Nodes:
        """The nodes."""
        return lattice(self.cells, self.divisions)

    def refined(self, dual: Dual, r: Float[Tensor, "n q"]) -> "Trapezoid":
        r"""Half the spacing, where :math:`\rho_r` is.

        Args:
            dual: J on the nodes of this rule.
            r: the residual.
        """
        return replace(self, held=_holding(dual, r, _LOG_END + _LOG_MARGIN), divisions=2 * self.divisions)

    def covering(self, dual: Dual, r: Float[Tensor, "n q"]) -> "Trapezoid":
        r"""Itself where :math:`\rho_r` does not reach out of the held cells, else with more of them; these are to be
        checked again, for their nodes see more.

        Args:
            dual: J on the nodes of this rule.
            r: the residual.
        """
        if bool(torch.isin(_holding(dual, r, _LOG_END), self.held).all()):
            return self
        return replace(self, held=torch.unique(torch.cat([self.held, _holding(dual, r, _LOG_END + _LOG_MARGIN)])))


@dataclass(frozen=True)
class QuasiMonteCarlo:
    """Scrambled Sobol points.

    Args:
        mean, factor, count: see :func:`nc_sweeps.oracle.nodes.scrambled_sobol`.
    """

    mean: Float[Tensor, "k"]
    factor: Float[Tensor, "k k"]
    count: int

    @classmethod
    def first(cls, problem: GibbsProblem) -> "QuasiMonteCarlo":
        """A coarse rule where there is no loss."""
        k = problem.dimension
        return cls(torch.zeros(k, dtype=torch.float64), torch.eye(k, dtype=torch.float64), 512)

    @property
    def size(self) -> int:
        """Number of nodes."""
        return SCRAMBLES * self.count

    def nodes(self) -> Nodes:
        """The nodes."""
        return scrambled_sobol(self.mean, self.factor, self.count)

    def refined(self, dual: Dual, r: Float[Tensor, "n q"]) -> "QuasiMonteCarlo":
        r"""Four times the nodes, half of them from the normal law of :math:`\rho_r`'s mean and covariance."""
        points, probabilities = dual.nodes.points, dual.probabilities(r)
        mean = probabilities @ points
        covariance = (points - mean).mT @ (probabilities[:, None] * (points - mean))
        # Few effective samples make a poor, even singular covariance.
        k = len(mean)
        trust = dual.effective_samples(r) / (dual.effective_samples(r) + k)
        covariance = trust * covariance + (1.0 - trust) * torch.eye(k, dtype=torch.float64)
        return QuasiMonteCarlo(mean, torch.linalg.cholesky(covariance), 4 * self.count)

    def covering(self, dual: Dual, r: Float[Tensor, "n q"]) -> "QuasiMonteCarlo":  # noqa: ARG002
        """Itself: the nodes are all over the space."""
        return self


Rule = Trapezoid | QuasiMonteCarlo


def _stride(axis: int) -> int:
    """What a step along an axis adds to the key of a cell, its coordinates as digits of one number."""
    return 1 << (21 * axis)


def _keys(cells: Int[Tensor, "cells k"]) -> Int[Tensor, "cells"]:
    strides = torch.tensor([_stride(axis) for axis in range(cells.shape[1])])
    return ((cells + _OFFSET) * strides).sum(dim=1)


def _holding(dual: Dual, r: Tensor, log_end: float) -> Tensor:
    """Keys of the cells with a node, or a first corner, where the density of ρ_r is e^{-log_end} of the largest.

    The corners are all over the space; the nodes see what is narrower than a cell, and whether it leads on beyond them.
    """
    points = dual.nodes.points
    log_density = dual.problem.log_tilt(dual.S, r) - points.square().sum(dim=1) / 2
    seen = points[log_density >= log_density.max() - log_end]
    keys: Tensor = torch.unique(torch.cat([_keys(torch.floor(seen / CELL).long()), _sought(dual.problem, r, log_end)]))
    return keys


def _sought(problem: GibbsProblem, r: Tensor, log_end: float) -> Tensor:
    """Keys of the cells in whose first corner the density of ρ_r is e^{-log_end} of the largest."""
    low, high = extent(problem, r, log_end)
    axes = [torch.arange(math.floor(a / CELL), math.ceil(b / CELL) + 1) for a, b in zip(low, high, strict=True)]
    if math.prod(map(len, axes)) > _MAX_CELLS:
        raise OracleError(
            f"the law of the first layer extends over {max(high) - min(low):.0f} standard deviations of the noise, too "
            f"many for a quadrature in {len(axes)} dimensions: take a smaller beta or gamma"
        )
    cells = torch.cartesian_prod(*axes).reshape(-1, len(axes))
    log_density = torch.cat(
        [_log_density(problem, r, CELL * part.double()) for part in torch.split(cells, _BLOCK_POINTS)]
    )
    return _keys(cells[log_density >= log_density.max() - log_end])


def extent(problem: GibbsProblem, r: Float[Tensor, "n q"], log_end: float) -> tuple[list[float], list[float]]:
    r"""Corners of a box outside of which the density of :math:`\rho_r(u)` is below :math:`e^{-\text{log\_end}}` of its
    largest value.

    The density is followed along rays out to the radius beyond which no tilt of a bounded activation, at most
    :math:`T = c\,n\,\sup|\sigma|^2\,\|W r^\top\|_{op}^2`, can make up for the Gaussian.

    Raises:
        OracleError: the density of an activation without bound does not fall.
    """
    head = float(torch.linalg.matrix_norm(r @ problem.W.mT, ord=2))
    # The zero residual has no tilt, be the activation bounded or not.
    tilt = problem.tilt_scale * len(r) * (problem.activation.bound * head) ** 2 if head > 0.0 else 0.0
    limit = min(math.sqrt(2.0 * (tilt + log_end)), math.inf if math.isfinite(tilt) else _MAX_RADIUS)

    count = math.ceil(math.log(limit, _RADIUS_RATIO)) + 1
    radii = torch.logspace(0.0, math.log10(limit), count, dtype=torch.float64)
    rays = directions(problem.dimension, _RAYS[problem.dimension])
    log_density = torch.stack(
        [problem.log_tilt(problem.activations(radius * rays), r) - radius.square() / 2 for radius in radii]
    )
    inside = log_density >= log_density.max() - log_end
    if math.isinf(tilt) and bool(inside[-1].any()):
        raise OracleError(
            f"the law of the first layer reaches beyond {_MAX_RADIUS:g} standard deviations of the noise: "
            "take an activation with a bound or a larger lambda_rho"
        )
    # The law ends somewhere before the next radius, and may bulge between two rays.
    edge = (_RADIUS_RATIO**2 * radii[:, None, None] * rays)[inside]
    return edge.amin(dim=0).tolist(), edge.amax(dim=0).tolist()


def _log_density(problem: GibbsProblem, r: Tensor, points: Tensor) -> Tensor:
    return problem.log_tilt(problem.activations(points), r) - points.square().sum(dim=1) / 2
