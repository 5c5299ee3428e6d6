r"""Measures how well data can be separated linearly: by the largest margin through the origin, or the least violation.

With signs :math:`s_i = +1` on class k and −1 on all others and :math:`z_i = s_i x_i`, the one-vs-rest margin of class k
is, by duality, the distance from the origin to the convex hull of the signed samples,

.. math:: m_k = \max_{\|u\| = 1} \min_i z_i^\top u = \min_{\alpha \ge 0,\ \sum\alpha_i = 1} \|\sum_i \alpha_i z_i\|

wherever either side is positive. Every u bounds it from below and every α from above, so each answer comes with its
proof: a margin with a direction that attains it, inseparability with weights that average the samples to zero.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import cho_factor, cho_solve, lstsq
from scipy.optimize import linprog, nnls

#: A margin below this share of the largest norm cannot be told from rounding and counts as zero.
RESOLUTION = 1e-10
#: Relative distance between the two bounds at which a margin counts as found.
_GAP = 1e-9
_NEWTON_STEPS = 100
#: A part of the samples, one in so many, is tested first.
_PART = 8


@dataclass(frozen=True)
class Separation:
    r"""The linear separation of the classes of a data set: (τ, M)-separability at M = 1.

    Args:
        margin: the largest τ with unit vectors such that :math:`\hat u_k^\top x \ge \tau` on class k and ≤ −τ on all
            others, the smallest class margin; 0 if a class cannot be separated through the origin.
        class_margins: :math:`\min_i s_i \hat u_k^\top x_i` as the directions attain it, (q,); 0 where inseparable.
        bounds: upper bounds of the class margins, norms of points of the hulls, (q,). They meet the margins to one part
            in 10⁶ or better unless a margin is below 10⁻⁵ of the largest norm, where rounding keeps them apart.
        directions: unit vectors :math:`\hat u_k`, (q, d); zero vectors where inseparable.
    """

    margin: float
    class_margins: Float[np.ndarray, "q"]
    bounds: Float[np.ndarray, "q"]
    directions: Float[np.ndarray, "q d"]


def find_separation(x: Float[np.ndarray, "n d"], labels: Int[np.ndarray, "n"], classes: int) -> Separation:
    """Return the largest one-vs-rest hard margins without intercept, their directions, and upper bounds.

    A class without samples still has a margin: that of all samples on one side of the origin.

    Args:
        x: samples, n ≥ 1.
        labels: classes 0 … q−1 of the samples.
        classes: number of classes q.
    """
    class_margins, bounds, directions = zip(*_separate_classes(x, labels, classes), strict=True)
    return Separation(min(class_margins), np.array(class_margins), np.array(bounds), np.stack(directions))


def find_margin(x: Float[np.ndarray, "n d"], labels: Int[np.ndarray, "n"], classes: int) -> float:
    """Return the margin of :func:`find_separation`, in less time: it stops at the first inseparable class.

    Args:
        x: samples, n ≥ 1.
        labels: classes 0 … q−1 of the samples.
        classes: number of classes q.
    """
    # A class that is inseparable in a part of the samples is inseparable in all, and a part is cheap: test it first.
    part = _draw_part(len(x))
    _, some = _find_coordinates(x[part])
    for k in _sort_by_hardness(some, labels[part], classes):
        if _find_separator(_apply_signs(some, labels[part], int(k)))[1] <= RESOLUTION:
            return 0.0
    smallest = np.inf
    for class_margin, _, _ in _separate_classes(x, labels, classes):
        smallest = min(smallest, class_margin)
        if smallest == 0.0:
            break
    return float(smallest)


def find_least_violations(
    x: Float[np.ndarray, "n d"], labels: Int[np.ndarray, "n"], classes: int
) -> Float[np.ndarray, "{classes}"]:
    r"""Return the smallest mean hinge :math:`\min_w \frac1n\sum_i \max(0, 1 - s_i w^\top x_i)` of each class.

    It is 0 if and only if the class is separable, never exceeds 1 (w = 0), and does not change with the scale of x.
    The linear program is solved in its dual form, max Σα_i/n s.t. Σα_i z_i = 0, 0 ≤ α ≤ 1, which has d rows instead
    of n; that is still slow beyond some thousands of samples.

    Args:
        x: samples, n ≥ 1.
        labels: classes 0 … q−1 of the samples.
        classes: number of classes q.

    Raises:
        RuntimeError: HiGHS did not reach the optimum.
    """
    _, coordinates = _find_coordinates(x)
    violations = []
    for k in range(classes):
        z = _apply_signs(coordinates, labels, k)
        result = linprog(
            -np.full(len(z), 1.0 / len(z)),
            A_eq=z.T,
            b_eq=np.zeros(z.shape[1]),
            bounds=(0.0, 1.0),
            options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
        )
        if result.fun is None or result.status != 0:
            raise RuntimeError(f"least violation of class {k}: {result.message}")
        violations.append(max(0.0, -result.fun))
    return np.array(violations)


def _separate_classes(
    x: Float[np.ndarray, "n d"], labels: Int[np.ndarray, "n"], classes: int
) -> Iterator[tuple[float, float, Float[np.ndarray, "d"]]]:
    """Yield the margin, its upper bound and its direction for every class."""
    basis, coordinates = _find_coordinates(x)
    scale = _find_scale(x)
    for k in range(classes):
        found, bound = _find_largest_margin(_apply_signs(coordinates, labels, k))
        direction = found if basis is None else basis @ found
        # The margin is measured on the samples themselves.
        class_margin = max(0.0, float((_find_signs(labels, k) * (x @ direction)).min()))
        yield class_margin, scale * bound, direction if class_margin else np.zeros_like(direction)


def _find_largest_margin(z: Float[np.ndarray, "n d"]) -> tuple[Float[np.ndarray, "d"], float]:
    r"""Return the direction of the largest margin of samples in the unit ball, 0 if there is none, and its upper bound.

    Least distance programming, min ‖w‖ s.t. z_i·w ≥ 1, as nonnegative least squares (Lawson and Hanson 1974, ch. 23):
    α minimises ‖Z_Aᵀα‖² + (tΣα − 1)², and w is along Z_Aᵀα. The working set A starts with the samples closest to some
    separating plane and takes in those that violate the plane found on it, until none does. The weight t only decides
    how well the problem is conditioned; the margin itself is the best choice, hence what the separating plane attains.
    """
    w = np.zeros(z.shape[1])
    for rows in (_draw_part(len(z)), slice(None)):
        w, bound = _find_separator(z[rows], w)
        if bound <= RESOLUTION:
            return np.zeros_like(w), bound
    scores = z @ w
    attained = float(scores.min() / np.linalg.norm(w))
    t = attained if attained > RESOLUTION else bound
    size = z.shape[1] + 1
    working = np.argsort(scores, kind="stable")[: 2 * size]
    while True:
        system = np.vstack([z[working].T, np.full(len(working), t)])
        # The default, three times the number of unknowns, is often too little for nearly inseparable samples.
        weights, _ = nnls(system, np.eye(size)[-1], maxiter=100 * system.shape[1])
        nearest = weights @ z[working] / weights.sum()
        bound = float(np.linalg.norm(nearest))
        if bound <= RESOLUTION:
            return np.zeros_like(w), bound
        scores = z @ (nearest / bound)
        violated = np.setdiff1d(np.flatnonzero(scores < (1.0 - _GAP) * bound), working)
        if not len(violated):
            # The second is worse only where the margin is close to rounding.
            return max(w / np.linalg.norm(w), nearest / bound, key=lambda u: float((z @ u).min())), bound
        working = np.concatenate([working, violated[np.argsort(scores[violated], kind="stable")[:size]]])


def _find_separator(
    z: Float[np.ndarray, "n d"], start: Float[np.ndarray, "d"] | None = None
) -> tuple[Float[np.ndarray, "d"], float]:
    """Return some w with z_i·w > 0 for all i, or the proof that there is none, for samples in the unit ball.

    Newton's method on the squared hinge ½Σ r_i², r_i = max(0, 1 − z_i·w), whose minimum has Σ r_i z_i = 0 with r ≥ 0:
    it is zero on separable samples, and otherwise r proves them inseparable (Keerthi and DeCoste, JMLR 6, 2005). The
    Hessian changes only with the set of active samples, so some dozens of steps settle it.

    Returns:
        w, and the upper bound ‖Σ r_i z_i‖/Σ r_i of the margin, which is at most :data:`RESOLUTION` if there is no w.
        Nearly inseparable samples may stay undecided, with a larger bound and a w that does not separate them.
    """
    w = np.zeros(z.shape[1]) if start is None else start
    # A proximal term does not move the minimum. Coordinates differ by orders of magnitude (a pixel that is lit once),
    # so each has a term in its own units; below the resolution a coordinate is rounding, which w must not build on.
    proximal = 1e-11 * np.square(z).sum(axis=0) + RESOLUTION**2
    for _ in range(_NEWTON_STEPS):
        slack = 1.0 - z @ w
        r = np.maximum(slack, 0.0)
        gradient = -(r @ z)
        bound = float(np.linalg.norm(gradient) / r.sum()) if r.any() else np.inf
        if bound <= RESOLUTION or slack.max() < 1.0 - RESOLUTION * np.linalg.norm(w):
            break
        active = z[slack > 0.0]
        hessian = active.T @ active
        hessian[np.diag_indices_from(hessian)] += proximal
        step = -cho_solve(cho_factor(hessian, overwrite_a=True), gradient)
        along, size = z @ step, 1.0
        while size > 1e-6 and np.square(np.maximum(slack - size * along, 0.0)).sum() >= np.square(r).sum():
            size /= 2.0
        w = w + size * step
    return w, bound


def _sort_by_hardness(
    x: Float[np.ndarray, "n d"], labels: Int[np.ndarray, "n"], classes: int
) -> Int[np.ndarray, "{classes}"]:
    """Return the classes in descending order of the squared hinge of least squares: inseparable ones come early."""
    signs = np.stack([_find_signs(labels, k) for k in range(classes)], axis=1)
    weights, *_ = lstsq(x, signs, lapack_driver="gelsy")
    return np.argsort(-np.square(np.maximum(0.0, 1.0 - signs * (x @ weights))).sum(axis=0), kind="stable")


def _find_coordinates(x: Float[np.ndarray, "n d"]) -> tuple[Float[np.ndarray, "d r"] | None, Float[np.ndarray, "n r"]]:
    """Return a basis and the coordinates in it of the samples, scaled into the unit ball.

    The basis is an orthonormal one of their span, or None if the span is not smaller than the space.
    """
    x = x / _find_scale(x)
    if len(x) >= x.shape[1]:
        return None, x
    basis, upper = np.linalg.qr(x.T)
    return basis, upper.T


def _find_scale(x: Float[np.ndarray, "n d"]) -> float:
    return float(np.linalg.norm(x, axis=1).max()) or 1.0


def _find_signs(labels: Int[np.ndarray, "n"], k: int) -> Float[np.ndarray, "n"]:
    return np.where(labels == k, 1.0, -1.0)


def _apply_signs(x: Float[np.ndarray, "n d"], labels: Int[np.ndarray, "n"], k: int) -> Float[np.ndarray, "n d"]:
    signed: Float[np.ndarray, "n d"] = x * _find_signs(labels, k)[:, None]
    return signed


def _draw_part(count: int) -> Int[np.ndarray, "part"]:
    """Return the indices of a random part of the samples, always the same part."""
    return np.random.default_rng(0).permutation(count)[: -(-count // _PART)]
