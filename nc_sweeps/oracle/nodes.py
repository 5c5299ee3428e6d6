r"""Nodes and weights for expectations under the standard normal law of :math:`\mathbb R^d`, with their error.

.. math::
    \mathbb{E} f(z) \approx \sum_m e^{\ell_m} f(z_m), \qquad z \sim \mathcal N(0, I_d)

Some parts of the nodes, the replicas, are rules of their own. Their disagreement with the whole gives the error.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.quasirandom import SobolEngine

#: Side of the cells of the trapezoid rule, and its largest spacing.
CELL = 0.5
#: Independent scrambles of a quasi-Monte-Carlo rule: enough to know their spread to 18 %.
SCRAMBLES = 16

#: Least ratio by which an error is believed to fall when the spacing is halved (h⁴), against lucky coincidences.
_LEAST_RATIO = 1.0 / 16.0
#: Spacing of the values of a Sobol sequence in torch.
_SOBOL_CELL = 2.0**-30


@dataclass(frozen=True)
class Replica:
    """Some of the nodes, which are a rule if their weights are multiplied by ``scale``."""

    part: slice
    scale: float


@dataclass(frozen=True)
class Nodes:
    r"""A rule and its replicas.

    Args:
        points: :math:`z_m`.
        log_weights: :math:`\ell_m`.
        replicas: rules of 2 and 4 times the spacing if ``nested``, otherwise independent rules.
        nested: whether the replicas are nested.
    """

    points: Float[Tensor, "nodes d"]
    log_weights: Float[Tensor, "nodes"]
    replicas: tuple[Replica, ...]
    nested: bool

    def error(self, whole: Float[Tensor, "*shape"], parts: Sequence[Float[Tensor, "*shape"]]) -> float:
        r"""Return the error of an estimate x in Frobenius norm.

        R independent replicas give the standard error :math:`(\sum_k \|x_k - x\|^2 / (R(R-1)))^{1/2}`. Nested replicas
        of spacing 2h and 4h, with :math:`\delta = \|x_{2h} - x\|` and :math:`\delta' = \|x_{4h} - x_{2h}\|`, give the
        rest of the geometric series, :math:`\delta^2/(\delta' - \delta)`, but at least :math:`\delta/16` and at most
        :math:`\delta`. This is right for an error in powers of h (kinks) and far too much for an error that is
        exponentially small in 1/h.

        Args:
            whole: the estimate from all nodes.
            parts: the estimates from the replicas.
        """
        if self.nested:
            fine, coarse = parts
            delta, previous = float((fine - whole).norm()), float((coarse - fine).norm())
            return delta if previous <= 2 * delta else delta * max(delta / (previous - delta), _LEAST_RATIO)
        squares = sum(float((part - whole).square().sum()) for part in parts)
        return math.sqrt(squares / (len(parts) * (len(parts) - 1)))


def lattice(cells: Int[Tensor, "cells d"], divisions: int) -> Nodes:
    r"""Return the trapezoid rule: the points of :math:`h\mathbb Z^d` in some cells, with weights
    :math:`h^d (2\pi)^{-d/2} e^{-\|z\|^2/2}`.

    It converges exponentially in 1/h if the integrand is analytic, and negligible outside of the cells. The replicas
    are the lattices of spacing 2h and 4h.

    Args:
        cells: k for the cell :math:`\prod_i [k_i, k_i + 1)` in units of :data:`CELL`.
        divisions: number of parts of the side of a cell, so that h is :data:`CELL` / divisions.
    """
    d = cells.shape[1]
    within = torch.cartesian_prod(*[torch.arange(divisions)] * d).reshape(-1, d)
    index = (divisions * cells[:, None, :] + within).reshape(-1, d)
    on_4h, on_2h = ((index % multiple == 0).all(dim=1) for multiple in (4, 2))
    index = torch.cat([index[on_4h], index[on_2h & ~on_4h], index[~on_2h]])
    h = CELL / divisions
    points = h * index.double()
    return Nodes(
        points=points,
        log_weights=d * math.log(h / math.sqrt(2.0 * math.pi)) - points.square().sum(dim=1) / 2,
        replicas=(Replica(slice(0, int(on_2h.sum())), 2.0**d), Replica(slice(0, int(on_4h.sum())), 4.0**d)),
        nested=True,
    )


def scrambled_sobol(mean: Float[Tensor, "d"], factor: Float[Tensor, "d d"], count: int) -> Nodes:
    r"""Return a rule of quasi-Monte Carlo: scrambled Sobol points through the normal quantile, half of them for the law
    :math:`\varphi = \mathcal N(0, I)` itself, half for a law :math:`g = \mathcal N(m, L L^\top)` near the integrand.

    All points are weighted by :math:`\varphi / (\tfrac12\varphi + \tfrac12 g) \le 2`, so that a poor g wastes no more
    than half of them. The replicas are independent scrambles of fixed seeds: the rule is deterministic.

    Args:
        mean, factor: m and L, lower triangular.
        count: number of points of a scramble; a power of two, or the points are out of balance.
    """
    points = torch.cat([_normal_sobol(len(mean), count, seed) for seed in range(SCRAMBLES)])
    tilted = torch.arange(len(points)) % count >= count // 2
    points[tilted] = mean + points[tilted] @ factor.mT
    standard = torch.linalg.solve_triangular(factor, (points - mean).mT, upper=False)
    log_ratio = (points.square().sum(dim=1) - standard.square().sum(dim=0)) / 2 - factor.diagonal().log().sum()
    return Nodes(
        points=points,
        log_weights=math.log(2.0 / len(points)) - torch.nn.functional.softplus(log_ratio),
        replicas=tuple(Replica(slice(k * count, (k + 1) * count), float(SCRAMBLES)) for k in range(SCRAMBLES)),
        nested=False,
    )


def directions(dimension: int, count: int) -> Float[Tensor, "count d"]:
    """Return unit vectors in all directions."""
    return torch.nn.functional.normalize(_normal_sobol(dimension, count, seed=0), dim=1)


def _normal_sobol(dimension: int, count: int, seed: int) -> Float[Tensor, "count d"]:
    cube = SobolEngine(dimension, scramble=True, seed=seed).draw(count, dtype=torch.float64)  # type: ignore[no-untyped-call]
    # Take the centres of the cells, since 0 has no finite quantile.
    normal: Tensor = torch.special.ndtri(cube + _SOBOL_CELL / 2)
    return normal
