r"""Rules of integration over the law of the first layer: which nodes they have, and how to refine them.

The trapezoid rule takes the cells that hold the law, quasi-Monte Carlo takes random points, many of them near it. All
coordinates are whitened, :math:`z = (\beta\lambda)^{1/2} u`, standard normal where there is no loss, and along the
principal directions of the inputs.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nc_sweeps.oracle.dual import Dual, GibbsProblem, OracleError
from nc_sweeps.oracle.nodes import CELL, SCRAMBLES, Nodes, directions, lattice, scrambled_sobol

Method = Literal["trapezoid", "quasi_monte_carlo"]

#: Largest dimension of the trapezoid rule.
MAX_TRAPEZOID_DIMENSION = 3
#: With fewer effective samples the spread of the scrambles is not to be trusted.
MIN_EFFECTIVE_SAMPLES = 1000.0

#: A law ends where its density is e⁻³⁷ of the largest, 1e-16. Nodes go further, so that they serve for laws nearby.
_LOG_END = 37.0
_LOG_MARGIN = 6.0
#: Rays along which a law is followed, by dimension, and the ratio of successive radii on them.
_RAYS = {1: 16, 2: 128, 3: 1024}
_RADIUS_RATIO = 1.05
#: Radius up to which the law of an activation without bound is followed.
_MAX_RADIUS = 1e3
#: Largest number of cells among which those of a law are searched.
_MAX_CELLS = 2**22
#: Points whose activations are formed together.
_BLOCK_POINTS = 2**14
#: Added to the coordinates of cells, so that keys are not negative.
_OFFSET = 2**20
#: Points of a scramble in the first rule of quasi-Monte Carlo.
_FIRST_POINTS = 512


class Rule(ABC):
    """A rule of integration over the law of the first layer, at some resolution.

    Attributes:
        method: name of the kind of rule.
        default_tolerance: error that is accepted by default: of log Z, and of the features relative to their norm.
    """

    method: ClassVar[Method]
    default_tolerance: ClassVar[float]

    @classmethod
    @abstractmethod
    def start(cls, problem: GibbsProblem) -> "Rule":
        """Return a coarse rule for the law without loss.

        Raises:
            OracleError: the inputs span too many dimensions.
        """

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of nodes."""

    @abstractmethod
    def build_nodes(self) -> Nodes:
        """Return the nodes of the rule."""

    @abstractmethod
    def refine(self, dual: Dual, r: Float[Tensor, "n q"]) -> "Rule":
        r"""Return a rule with more nodes where :math:`\rho_r` is.

        Args:
            dual: J on the nodes of this rule.
            r: the residual.
        """

    @abstractmethod
    def cover(self, dual: Dual, r: Float[Tensor, "n q"]) -> "Rule":
        r"""Return this rule itself if its nodes cover :math:`\rho_r`, else a wider one.

        The nodes of a wider rule see more, so it has to be asked again.

        Args:
            dual: J on the nodes of this rule.
            r: the residual.
        """

    @abstractmethod
    def trusts_error(self, effective_samples: float) -> bool:
        """Return whether the error that the nodes tell can be trusted.

        Args:
            effective_samples: how many nodes of equal weight the law is worth.
        """

    @abstractmethod
    def predict_size(self, error: float, tolerance: float) -> float:
        """Return how many nodes a tolerance takes at least, as far as that can be known.

        Args:
            error: error of this rule.
            tolerance: error that is accepted.
        """


@dataclass(frozen=True)
class Trapezoid(Rule):
    """The trapezoid rule on the cells that hold a law and on all cells around them.

    Args:
        core: keys of the cells that hold the law.
        dimension: k ≤ 3.
        divisions: number of parts into which the side of a cell is divided.
    """

    method = "trapezoid"
    default_tolerance = 1e-5

    core: Int[Tensor, "core"]
    dimension: int
    divisions: int

    @classmethod
    def start(cls, problem: GibbsProblem) -> "Trapezoid":
        """Return a coarse rule for the law without loss: see :meth:`Rule.start`."""
        if problem.dimension > MAX_TRAPEZOID_DIMENSION:
            raise OracleError(
                f"the inputs span {problem.dimension} dimensions, too many for the trapezoid rule with its "
                f"{MAX_TRAPEZOID_DIMENSION}: use quasi_monte_carlo"
            )
        core = _find_cells(problem, torch.zeros_like(problem.Y), _LOG_END + _LOG_MARGIN)
        return cls(core, problem.dimension, 1)

    @cached_property
    def cells(self) -> Int[Tensor, "cells k"]:
        """Coordinates of the core cells and of all cells around them."""
        keys = self.core
        for axis in range(self.dimension):
            keys = torch.unique(torch.cat([keys, keys - _stride(axis), keys + _stride(axis)]))
        return torch.stack([keys // _stride(axis) % _stride(1) - _OFFSET for axis in range(self.dimension)], dim=1)

    @property
    def size(self) -> int:
        """Number of nodes."""
        return len(self.cells) * int(self.divisions**self.dimension)

    def build_nodes(self) -> Nodes:
        """Return the nodes of the rule."""
        return lattice(self.cells, self.divisions)

    def refine(self, dual: Dual, r: Float[Tensor, "n q"]) -> "Trapezoid":
        r"""Return the rule with half the spacing on the cells that hold :math:`\rho_r`: see :meth:`Rule.refine`."""
        return replace(self, core=_find_core(dual, r, _LOG_END + _LOG_MARGIN), divisions=2 * self.divisions)

    def cover(self, dual: Dual, r: Float[Tensor, "n q"]) -> "Trapezoid":
        r"""Return this rule if :math:`\rho_r` does not reach out of its core, else one with a larger core."""
        if bool(torch.isin(_find_core(dual, r, _LOG_END), self.core).all()):
            return self
        return replace(self, core=torch.unique(torch.cat([self.core, _find_core(dual, r, _LOG_END + _LOG_MARGIN)])))

    def trusts_error(self, effective_samples: float) -> bool:  # noqa: ARG002
        """Return True: the error comes from coarser rules and not from a spread."""
        return True

    def predict_size(self, error: float, tolerance: float) -> float:  # noqa: ARG002
        """Return the present number of nodes: the error falls faster than any rate that could be counted on."""
        return float(self.size)


@dataclass(frozen=True)
class QuasiMonteCarlo(Rule):
    """Scrambled Sobol points.

    Args:
        mean, factor, count: arguments of :func:`nc_sweeps.oracle.nodes.scrambled_sobol`.
    """

    method = "quasi_monte_carlo"
    default_tolerance = 1e-2

    mean: Float[Tensor, "k"]
    factor: Float[Tensor, "k k"]
    count: int

    @classmethod
    def start(cls, problem: GibbsProblem) -> "QuasiMonteCarlo":
        """Return a coarse rule for the law without loss: see :meth:`Rule.start`."""
        k = problem.dimension
        return cls(torch.zeros(k, dtype=torch.float64), torch.eye(k, dtype=torch.float64), _FIRST_POINTS)

    @property
    def size(self) -> int:
        """Number of nodes."""
        return SCRAMBLES * self.count

    def build_nodes(self) -> Nodes:
        """Return the nodes of the rule."""
        return scrambled_sobol(self.mean, self.factor, self.count)

    def refine(self, dual: Dual, r: Float[Tensor, "n q"]) -> "QuasiMonteCarlo":
        r"""Return the rule with four times the nodes, half of them from the normal law of :math:`\rho_r`'s mean and
        covariance: see :meth:`Rule.refine`.
        """
        points, probabilities = dual.nodes.points, dual.probabilities(r)
        mean = probabilities @ points
        covariance = (points - mean).mT @ (probabilities[:, None] * (points - mean))
        # Few effective samples make a poor, even singular covariance.
        k = len(mean)
        trust = dual.effective_samples(r) / (dual.effective_samples(r) + k)
        covariance = trust * covariance + (1.0 - trust) * torch.eye(k, dtype=torch.float64)
        return replace(self, mean=mean, factor=torch.linalg.cholesky(covariance), count=4 * self.count)

    def cover(self, dual: Dual, r: Float[Tensor, "n q"]) -> "QuasiMonteCarlo":  # noqa: ARG002
        """Return this rule itself: its nodes are all over the space."""
        return self

    def trusts_error(self, effective_samples: float) -> bool:
        """Return whether there are enough effective samples for the spread of the scrambles to be trusted."""
        return effective_samples >= MIN_EFFECTIVE_SAMPLES

    def predict_size(self, error: float, tolerance: float) -> float:
        """Return how many nodes a tolerance takes: once they are near the law, the error falls like 1/nodes at best."""
        is_near_law = self.count > _FIRST_POINTS
        return self.size * error / tolerance if is_near_law else float(self.size)


#: Every rule by the name of its method.
RULES: dict[Method, type[Rule]] = {"trapezoid": Trapezoid, "quasi_monte_carlo": QuasiMonteCarlo}


def _stride(axis: int) -> int:
    """Return the increase of a cell's key along an axis: the key has the coordinates as digits."""
    return 1 << (21 * axis)


def _keys(cells: Int[Tensor, "cells k"]) -> Int[Tensor, "cells"]:
    strides = torch.tensor([_stride(axis) for axis in range(cells.shape[1])])
    return ((cells + _OFFSET) * strides).sum(dim=1)


def _find_core(dual: Dual, r: Tensor, log_end: float) -> Tensor:
    """Return the keys of the cells in which the density of ρ_r is at least e^{-log_end} of the largest, at a node or at
    the first corner.

    Corners are all over the space; nodes see what is narrower than a cell, and whether it goes on beyond them.
    """
    points = dual.nodes.points
    log_density = dual.problem.log_tilt(dual.S, r) - points.square().sum(dim=1) / 2
    seen = points[log_density >= log_density.max() - log_end]
    keys: Tensor = torch.unique(
        torch.cat([_keys(torch.floor(seen / CELL).long()), _find_cells(dual.problem, r, log_end)])
    )
    return keys


def _find_cells(problem: GibbsProblem, r: Tensor, log_end: float) -> Tensor:
    """Return the keys of the cells at whose first corner the density of ρ_r is at least e^{-log_end} of the largest."""
    low, high = _find_extent(problem, r, log_end)
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


def _find_extent(problem: GibbsProblem, r: Float[Tensor, "n q"], log_end: float) -> tuple[list[float], list[float]]:
    r"""Return two corners of a box outside of which the density of :math:`\rho_r(u)` is below
    :math:`e^{-\text{log\_end}}` of its largest value.

    The density is followed along rays out to the radius beyond which no tilt of a bounded activation, at most
    :math:`T = c\,n\,\sup|\sigma|^2\,\|W r^\top\|_{op}^2`, can make up for the Gaussian.

    Raises:
        OracleError: the density of an activation without bound does not fall.
    """
    head = float(torch.linalg.matrix_norm(r @ problem.W.mT, ord=2))
    # A residual of zero has no tilt, whether the activation is bounded or not.
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
