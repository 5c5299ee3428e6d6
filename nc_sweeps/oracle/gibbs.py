r"""The infinite-width oracle of stage 1: where infinitely many noisy particles end, and how far finitely many stay off.

Newton's method on the convex dual (:mod:`nc_sweeps.oracle.dual`) finds the optimal residual :math:`r^*`; features,
predictions and free energy follow. The law of u is integrated by the trapezoid rule if the inputs span k ≤ 3
dimensions, else by quasi-Monte Carlo. Both know their error, and the oracle refuses an error that is too large.
"""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from nc_sweeps.metrics.centring import centre, square_norm, within_class
from nc_sweeps.oracle.dual import Dual, GibbsProblem, OracleError
from nc_sweeps.oracle.rules import MAX_TRAPEZOID_DIMENSION, MIN_EFFECTIVE_SAMPLES, RULES, Method, Rule

#: Largest number of activations that are kept, nodes × samples: 512 MiB.
MAX_ACTIVATIONS = 2**26

#: Newton's method ends at n‖∇J‖ below this share of ‖Y‖; by strong convexity that bounds the error of r.
_NEWTON_TOLERANCE = 1e-11
_NEWTON_STEPS = 100
#: Relative rounding of J, which near the minimum exceeds what a step gains.
_ROUNDING = 1e-13


@dataclass(frozen=True)
class GibbsOracle:
    r"""Stage 1 at infinite width and time.

    Args:
        problem: the problem that was solved.
        tolerance: accepted error.
        residual: :math:`r^*`.
        features: :math:`H^* = -\frac{\gamma}{n\lambda} K r^* W^\top`.
        kernel: :math:`K = \mathbb{E}[\sigma\sigma^\top]`.
        second_moment: :math:`\mathbb{E}[a a^\top] = (\beta\lambda)^{-1} I - \frac{\gamma}{n\lambda} W r^{*\top} H^*`.
        free_energy: :math:`\min_\rho E_n - \frac{\lambda_W}{2}\|W\|^2 = -J(r^*)`; with quasi-Monte Carlo an estimate,
            biased upwards, and not a lower bound.
        free_energy_error: error of ``free_energy``.
        features_error: error of ``features`` in Frobenius norm, to first order.
        nc1: NC1 of the features.
        nc1_error: error of ``nc1``; its relative error is far above that of the features if these have much in common.
        effective_samples: :math:`1/\sum_m\pi_m^2` for the weights :math:`\pi_m` of the nodes.
        dual: J on the nodes.
        rule: rule of the nodes.
    """

    problem: GibbsProblem = field(repr=False)
    tolerance: float
    residual: Float[Tensor, "n q"] = field(repr=False)
    features: Float[Tensor, "n p"] = field(repr=False)
    kernel: Float[Tensor, "n n"] = field(repr=False)
    second_moment: Float[Tensor, "p p"] = field(repr=False)
    free_energy: float
    free_energy_error: float
    features_error: float
    nc1: float
    nc1_error: float
    effective_samples: float
    dual: Dual = field(repr=False)
    rule: Rule = field(repr=False)

    @property
    def method(self) -> Method:
        """Method by which the law of u was integrated."""
        return self.rule.method

    @property
    def optimal_predictions(self) -> Float[Tensor, "n q"]:
        r""":math:`F^* = \gamma H^* W`."""
        return self.problem.gamma * self.features @ self.problem.W

    def predictions(self, residual: Float[Tensor, "n q"]) -> Float[Tensor, "n q"]:
        r"""Return the predictions :math:`F_r = \gamma H_r W` of the Gibbs law of a residual r.

        The activations at the nodes are kept; only a law that reaches beyond the nodes needs new ones.

        Raises:
            OracleError: the law is too far from the nodes.
        """
        return self._dual_for(residual).predictions(residual)

    def certified_distance(self, F: Float[Tensor, "n q"]) -> float:
        r"""Return an upper bound of the distance :math:`\|F - F^*\|_F`: :math:`\|F - \gamma H_r W\|_F`, r = F − Y,
        plus the error of :math:`\gamma H_r W` (of quasi-Monte Carlo: the standard error).

        :math:`\nabla^2 J \succeq I/n` and :math:`\nabla J(r^*) = 0` give :math:`\|r - r^*\|_F^2 \le
        \langle n\nabla J(r), r - r^*\rangle \le \|n\nabla J(r)\|_F\,\|r - r^*\|_F`; here :math:`r - r^* = F - F^*`
        and :math:`n\nabla J(r) = r + Y - \gamma H_r W = F - \gamma H_r W`.

        Args:
            F: predictions of a particle cloud, or any others; float64.

        Raises:
            OracleError: see :meth:`predictions`.
        """
        residual = F - self.problem.Y
        gibbs, error = self._dual_for(residual).predictions_with_error(residual)
        return float((F - gibbs).norm()) + error

    def _dual_for(self, residual: Tensor) -> Dual:
        rule, dual = self.rule, self.dual
        while (wider := rule.cover(dual, residual)) is not rule:
            rule, dual = wider, _build_dual(wider, self.problem, self.tolerance)
        if not rule.trusts_error(n := dual.effective_samples(residual)):
            raise OracleError(
                f"{rule.size} nodes are worth {n:.0f} for the Gibbs law of this residual, fewer than "
                f"{MIN_EFFECTIVE_SAMPLES:.0f}: it is too far from the optimum; solve with a smaller tolerance"
            )
        return dual


def solve_stage_one(problem: GibbsProblem, method: Method | None = None, tolerance: float | None = None) -> GibbsOracle:
    r"""Solve stage 1 at infinite width, on ever finer nodes until the error is small enough.

    Args:
        problem: stage 1 of one run.
        method: how to integrate over u; by default the trapezoid rule if the inputs span at most 3 dimensions.
        tolerance: accepted error of log Z, and of the features relative to their norm; by default the
            :attr:`~nc_sweeps.oracle.rules.Rule.default_tolerance` of the method.

    Raises:
        OracleError: the tolerance is out of reach.
    """
    if method is None:
        method = "trapezoid" if problem.dimension <= MAX_TRAPEZOID_DIMENSION else "quasi_monte_carlo"
    r = torch.zeros_like(problem.Y)
    rule = RULES[method].start(problem)
    if tolerance is None:
        tolerance = rule.default_tolerance
    reached = math.inf
    while True:
        dual = _build_dual(rule, problem, tolerance, reached)
        r = minimise(dual, r)
        wider = rule.cover(dual, r)
        if wider is not rule:
            rule = wider
            continue
        oracle = _build_oracle(dual, rule, r, tolerance)
        reached = max(problem.beta * oracle.free_energy_error, oracle.features_error / float(oracle.features.norm()))
        if reached <= tolerance and rule.trusts_error(oracle.effective_samples):
            return oracle
        if rule.predict_size(reached, tolerance) * len(r) > MAX_ACTIVATIONS:  # do not work up to the limit in vain
            raise _too_large(problem, tolerance, reached)
        rule = rule.refine(dual, r)


def minimise(dual: Dual, r: Float[Tensor, "n q"]) -> Float[Tensor, "n q"]:
    r"""Return the residual that minimises J, found by Newton's method with Armijo backtracking.

    Args:
        dual: J on nodes.
        r: where to start.

    Raises:
        OracleError: it does not converge, a sign of scales too far apart for float64.
    """
    goal = _NEWTON_TOLERANCE * float(dual.problem.Y.norm())
    for _ in range(_NEWTON_STEPS):
        gradient = dual.gradient(r)
        if len(r) * float(gradient.norm()) <= goal:
            return r
        factor = torch.linalg.cholesky(dual.hessian(r))
        step = -torch.cholesky_solve(gradient.reshape(-1, 1), factor).reshape_as(r)
        slope = float((gradient * step).sum())
        value = float(dual.value(r))
        length = 1.0
        while float(dual.value(r + length * step)) > value + 1e-4 * length * slope + _ROUNDING * abs(value):
            length /= 2
        r = r + length * step
    raise OracleError(
        f"Newton's method is at n‖∇J‖ = {len(r) * float(dual.gradient(r).norm()):.1e} after {_NEWTON_STEPS} steps, "
        f"not at {goal:.1e}: take a smaller beta or gamma, or a larger lambda_rho"
    )


def _build_dual(rule: Rule, problem: GibbsProblem, tolerance: float, reached: float = math.inf) -> Dual:
    """Return J on the nodes of a rule; refuse nodes that do not fit into memory."""
    if rule.size * len(problem.X) > MAX_ACTIVATIONS:
        raise _too_large(problem, tolerance, reached)
    return Dual(problem, rule.build_nodes())


def _too_large(problem: GibbsProblem, tolerance: float, reached: float) -> OracleError:
    n = len(problem.X)
    known = "" if math.isinf(reached) else f" (reached: {reached:.1e})"
    return OracleError(
        f"an error of {tolerance:.1e} takes more than the {MAX_ACTIVATIONS // n} nodes that fit into memory with {n} "
        f"samples{known}: use fewer samples, a larger tolerance, or a smaller beta or gamma"
    )


def _build_oracle(dual: Dual, rule: Rule, r: Tensor, tolerance: float) -> GibbsOracle:
    problem, n = dual.problem, len(r)
    H = dual.features(r)
    # r minimises J on the nodes. The gradient of the exact J there is the error of F_r over n; it falls to zero on the
    # way to the exact minimiser, about linearly, so that J(r) is half their product above the minimum.
    gradient_error = dual.predictions_with_error(r)[1]
    replicas = dual.replica_minimisers(r)
    r_error = dual.nodes.error(r, replicas) + n * float(dual.gradient(r).norm())
    value = float(dual.value(r))
    # H* = γ⁻¹F*W⁺, for its rows lie in the range of W.
    head_inverse = torch.linalg.pinv(problem.W) / problem.gamma
    nc1 = _nc1(H, problem.Y)
    return GibbsOracle(
        problem=problem,
        tolerance=tolerance,
        residual=r,
        features=H,
        kernel=dual.kernel(r),
        second_moment=torch.eye(len(problem.W), dtype=r.dtype) / problem.concentration
        - problem.gain * problem.W @ r.mT @ H,
        free_energy=-value,
        free_energy_error=dual.log_partition_error(r) / problem.beta
        + gradient_error * r_error / (2 * n)
        + _ROUNDING * abs(value),
        features_error=r_error * float(torch.linalg.matrix_norm(head_inverse, ord=2)),
        nc1=float(nc1),
        nc1_error=dual.nodes.error(nc1, [_nc1((k + problem.Y) @ head_inverse, problem.Y) for k in replicas]),
        effective_samples=dual.effective_samples(r),
        dual=dual,
        rule=rule,
    )


def _nc1(H: Tensor, Y: Tensor) -> Tensor:
    return square_norm(within_class(H, Y)) / square_norm(centre(H))


def range_fluctuation(problem: GibbsProblem, kernel: Float[Tensor, "n n"], particles: int) -> float:
    r"""Return what finitely many stationary particles add to the features where the head cannot see:
    :math:`\mathbb{E}\|(H - H^*)(I - P)\|_F^2 = (p - q)\,\mathrm{tr}K / (\beta\lambda N)`.

    Args:
        problem: stage 1, with a head of full rank.
        kernel: K at the optimum.
        particles: N.
    """
    p, q = problem.W.shape
    return (p - q) * float(kernel.trace()) / (problem.concentration * particles)


def head_fluctuation(problem: GibbsProblem, kernel: Float[Tensor, "n n"], particles: int) -> float:
    r"""Estimate what finitely many stationary particles add to the features where the head can see:
    :math:`\mathbb{E}\|(H - H^*)P\|_F^2 \approx
    1.5 \sum_{i,v} k_i / (\beta N (\lambda + \gamma^2\sigma_v^2 k_i / n))`, :math:`k_i` the eigenvalues of K and
    :math:`\sigma_v` the singular values of W. The loss pulls the predictions back, and the fluctuations with them.

    Args:
        problem: stage 1, with a head of full rank.
        kernel: K at the optimum.
        particles: N.
    """
    k = torch.linalg.eigvalsh(kernel)[:, None]
    pull = problem.lambda_rho + problem.gamma**2 * torch.linalg.svdvals(problem.W).square() * k / len(k)
    return 1.5 * float((k / pull).sum()) / (problem.beta * particles)
