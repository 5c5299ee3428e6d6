"""The infinite-width oracle against autograd, independent quadrature in NumPy, and particles."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nc_sweeps.activations import ACTIVATIONS
from nc_sweeps.dynamics.flow import NEVER, Flow
from nc_sweeps.dynamics.integrators import INTEGRATORS
from nc_sweeps.oracle import gibbs
from nc_sweeps.oracle.dual import Dual, GibbsProblem, OracleError
from nc_sweeps.oracle.gibbs import head_fluctuation, range_fluctuation, solve_stage_one
from nc_sweeps.oracle.nodes import CELL, lattice, scrambled_sobol
from tests.networks import hyperparameters, networks_of

SIGMA = {"sigmoid": scipy.special.expit, "tanh": np.tanh, "erf": scipy.special.erf}


def problem_of(d, n, q, p, *, beta=100.0, lambda_rho=0.01, gamma=1.0, activation="sigmoid", seed=0):
    """Inputs in the unit ball, an orthonormal head."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(n, d, generator=generator, dtype=torch.float64)
    X = X / X.norm(dim=1, keepdim=True).clamp(min=1.0)
    W = torch.linalg.qr(torch.randn(p, q, generator=generator, dtype=torch.float64)).Q
    Y = torch.nn.functional.one_hot(torch.arange(n) % q, q).double()
    return GibbsProblem(X, Y, W, gamma, lambda_rho, beta, ACTIVATIONS[activation])


def randn(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SMALL = [
    {"d": 1, "n": 4, "q": 2, "p": 2, "activation": "tanh"},
    {"d": 2, "n": 6, "q": 2, "p": 3},
    {"d": 2, "n": 6, "q": 2, "p": 3, "beta": 50.0, "lambda_rho": 0.04, "gamma": 1.7, "activation": "erf"},
    {"d": 2, "n": 7, "q": 3, "p": 4, "beta": 1000.0, "lambda_rho": 0.02, "gamma": 0.7},
]

#: A law with ridges that are narrower than the cells among which it is sought.
SHARP = {"d": 2, "n": 6, "q": 2, "p": 3, "beta": 50.0, "gamma": 1.7, "activation": "erf"}


class Quadrature:
    """Gauss–Legendre in u, in NumPy: nothing of it is shared with the oracle."""

    def __init__(self, problem, activation, points=200, deviations=14):
        # All but one of the laws below end well inside of 14 standard deviations of the noise.
        x, w = np.polynomial.legendre.leggauss(points)
        half = deviations / math.sqrt(problem.beta * problem.lambda_rho)
        axes = [half * x] * problem.X.shape[1]
        self.U = np.stack([z.ravel() for z in np.meshgrid(*axes)], axis=1)
        self.weights = np.prod(np.meshgrid(*[half * w] * len(axes)), axis=0).ravel()
        self.S = SIGMA[activation](self.U @ problem.X.numpy().T)
        self.problem = problem
        self.X, self.Y, self.W = (Z.numpy() for Z in (problem.X, problem.Y, problem.W))
        self.n, self.p = len(self.X), len(self.W)
        self.lam, self.beta, self.gamma = problem.lambda_rho, problem.beta, problem.gamma

    def mean_a(self, r):
        return -self.gamma / (self.n * self.lam) * self.S @ r @ self.W.T

    def log_density(self, r):
        """log ρ_r(u)."""
        tilt = self.beta * self.gamma**2 / (2 * self.lam * self.n**2) * np.sum((self.S @ r @ self.W.T) ** 2, axis=1)
        log = tilt - self.beta * self.lam / 2 * np.sum(self.U**2, axis=1)
        return log - scipy.special.logsumexp(log, b=self.weights)

    def mean(self, log_density, Z):
        return (self.weights * np.exp(log_density)) @ Z

    def product(self, log_density, A, B):
        """E[a bᵀ]."""
        return A.T @ ((self.weights * np.exp(log_density))[:, None] * B)

    def free_energy(self, log_density, mean_a, variance_a):
        """E_n without the head's decay of the law of u with a | u ~ N(mean_a(u), variance_a I)."""
        H = self.product(log_density, self.S, mean_a)
        F = self.gamma * H @ self.W
        decay = self.p * variance_a + self.mean(log_density, np.sum(mean_a**2, axis=1) + np.sum(self.U**2, axis=1))
        log_rho = self.mean(log_density, log_density) - self.p / 2 * math.log(2 * math.pi * math.e * variance_a)
        loss = np.sum((F - self.Y) ** 2) / (2 * self.n)
        return loss + self.lam / 2 * decay + log_rho / self.beta, F


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    d=st.integers(1, 4),
    n=st.integers(2, 6),
    q=st.integers(2, 3),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    gamma=st.floats(0.3, 2.0),
    beta=st.floats(1.0, 50.0),
)
def test_gradient_and_hessian(seed, d, n, q, activation, gamma, beta):
    problem = problem_of(d, n, q, q + 1, beta=beta, lambda_rho=0.1, gamma=gamma, activation=activation, seed=seed)
    problem = replace(problem, W=problem.W * torch.linspace(0.5, 1.5, q, dtype=torch.float64))
    k = problem.dimension
    dual = Dual(problem, scrambled_sobol(torch.zeros(k).double(), torch.eye(k).double(), 16))
    r = randn(n, q, seed=seed).requires_grad_()
    (gradient,) = torch.autograd.grad(dual.value(r), r)
    hessian = torch.autograd.functional.hessian(dual.value, r).reshape(n * q, n * q)
    r = r.detach()
    # A few hundred terms in float64, squares of up to ~50 in the exponent of the tilt.
    torch.testing.assert_close(dual.gradient(r), gradient, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(dual.hessian(r), hessian, rtol=1e-9, atol=1e-10 * float(hessian.norm()))
    assert float(torch.linalg.eigvalsh(dual.hessian(r))[0]) >= 1 / n * (1 - 1e-9)


@pytest.mark.parametrize("case", [*SMALL, SHARP])
def test_fixed_point(case):
    problem = problem_of(**case)
    oracle = solve_stage_one(problem, tolerance=1e-10)
    size = {"points": 600, "deviations": 22} if case is SHARP else {}
    other = Quadrature(problem, case.get("activation", "sigmoid"), **size)
    r = oracle.residual.numpy()
    log_density = other.log_density(r)
    K = other.product(log_density, other.S, other.S)
    H = -problem.gamma / (other.n * problem.lambda_rho) * K @ r @ other.W.T
    mean_a = other.mean_a(r)
    second_moment = np.eye(other.p) / (problem.beta * problem.lambda_rho)
    second_moment += other.product(log_density, mean_a, mean_a)

    # Newton ends at 1e-11 ‖Y‖; the features amplify errors of K by γ/(nλ) ≈ 15.
    np.testing.assert_allclose(oracle.kernel, K, atol=1e-10)
    np.testing.assert_allclose(oracle.features, H, atol=1e-9)
    np.testing.assert_allclose(r, problem.gamma * H @ other.W - other.Y, atol=1e-9)
    np.testing.assert_allclose(oracle.optimal_predictions, r + other.Y, atol=1e-9)
    np.testing.assert_allclose(oracle.second_moment, second_moment, rtol=1e-9, atol=1e-9)
    means = other.Y @ (other.Y.T @ H / other.Y.sum(axis=0)[:, None])
    assert oracle.nc1 == pytest.approx(np.sum((H - means) ** 2) / np.sum((H - H.mean(axis=0)) ** 2), rel=1e-7)
    assert float((oracle.features - torch.tensor(H)).norm()) <= oracle.features_error + 1e-9


@pytest.mark.parametrize("case", SMALL)
def test_strong_duality(case):
    """The free energy of the Gibbs law, term by term from its definition, is −J(r*)."""
    problem = problem_of(**case)
    oracle = solve_stage_one(problem, tolerance=1e-9)
    other = Quadrature(problem, case.get("activation", "sigmoid"))
    r = oracle.residual.numpy()
    primal, _ = other.free_energy(other.log_density(r), other.mean_a(r), 1 / (problem.beta * problem.lambda_rho))
    # Either side is stationary: errors of r enter squared. 1e-10 is what the two quadratures leave.
    assert oracle.free_energy == pytest.approx(primal, rel=1e-9, abs=1e-10)
    assert oracle.free_energy_error < 1e-9 / problem.beta + 1e-12


@pytest.mark.parametrize("law", ["gibbs", "gaussian"])
@pytest.mark.parametrize("case", SMALL)
def test_gap_identity(case, law):
    """E_n(ρ) + J(r) = β⁻¹KL(ρ‖ρ_r) + ‖r_ρ − r‖²/(2n) for laws ρ and residuals r that are not optimal."""
    problem = problem_of(**case)
    oracle = solve_stage_one(problem, tolerance=1e-9)
    other = Quadrature(problem, case.get("activation", "sigmoid"))
    variance = 1 / (problem.beta * problem.lambda_rho)
    r = oracle.residual + 0.05 * randn(*oracle.residual.shape, seed=1)
    if law == "gibbs":
        s = (oracle.residual + 0.05 * randn(*oracle.residual.shape, seed=2)).numpy()
        log_density, mean_a, variance_a = other.log_density(s), other.mean_a(s), variance
    else:
        log = -np.sum((other.U - 0.3) ** 2, axis=1) / (2 * 0.8 * variance)
        log_density = log - scipy.special.logsumexp(log, b=other.weights)
        mean_a, variance_a = np.broadcast_to(np.linspace(-1, 1, other.p), (len(other.U), other.p)), 1.3 * variance
    free_energy, F = other.free_energy(log_density, mean_a, variance_a)

    # KL of the laws of u, and of the Gaussian laws of a given u.
    distance = np.sum((mean_a - other.mean_a(r.numpy())) ** 2, axis=1)
    ratio = variance_a / variance
    divergence = other.mean(log_density, log_density - other.log_density(r.numpy()) + distance / (2 * variance))
    divergence += other.p / 2 * (ratio - 1 - math.log(ratio))
    loss_gap = np.sum((F - other.Y - r.numpy()) ** 2) / (2 * other.n)
    gap = free_energy + float(oracle.dual.value(r))
    assert gap > 1e-4
    assert gap == pytest.approx(divergence / problem.beta + loss_gap, rel=1e-8, abs=1e-9)


def test_certified_distance():
    problem = problem_of(2, 6, 2, 3)
    oracle = solve_stage_one(problem, tolerance=1e-10)
    optimum = oracle.optimal_predictions
    # Newton's 1e-11 ‖Y‖, and the nodes' own estimate of their error at r*, some times the tolerance.
    assert oracle.certified_distance(optimum) < 1e-7
    for seed, scale in enumerate([1e-4, 1e-2, 0.1, 1.0, 5.0]):
        F = optimum + scale * randn(6, 2, seed=seed)
        assert oracle.certified_distance(F) >= float((F - optimum).norm()) * (1 - 1e-6)
    for seed in range(5):
        U, A = randn(50, 2, seed=seed), randn(50, 3, seed=seed + 100)
        F = torch.sigmoid(problem.X @ U.mT) @ A @ problem.W / 50
        assert oracle.certified_distance(F) >= float((F - optimum).norm())
    # ∇J is affine near r*, so the bound cannot be tighter than the stiffness there allows.
    assert oracle.certified_distance(optimum + 1e-5) < 1e-2


def test_only_the_span_of_the_inputs_matters():
    """Inputs of the plane in ten dimensions: the same features, and eight more Gaussian integrals."""
    plane = problem_of(2, 6, 2, 3)
    basis = torch.linalg.qr(randn(10, 2)).Q
    oracle, expected = (
        solve_stage_one(problem, tolerance=1e-10) for problem in (replace(plane, X=plane.X @ basis.mT), plane)
    )
    assert oracle.method == "trapezoid"
    torch.testing.assert_close(oracle.features, expected.features, rtol=0, atol=1e-8)
    free = 8 / 2 * math.log(2 * math.pi / (plane.beta * plane.lambda_rho)) / plane.beta
    assert oracle.free_energy == pytest.approx(expected.free_energy - free, abs=1e-11)


@pytest.mark.parametrize(("d", "n"), [(2, 6), (3, 5)])
def test_quasi_monte_carlo_agrees_with_quadrature(d, n):
    problem = problem_of(d, n, 2, 3)
    exact = solve_stage_one(problem, tolerance=1e-7)
    rough, fine = (solve_stage_one(problem, method="quasi_monte_carlo", tolerance=t) for t in (1e-2, 1e-4))
    assert exact.method == "trapezoid"
    for oracle in (rough, fine):
        # Standard errors from 16 scrambles; they are Gaussian with few degrees of freedom: 4 is far out.
        assert float((oracle.features - exact.features).norm()) < 4 * oracle.features_error
        assert abs(oracle.free_energy - exact.free_energy) < 4 * oracle.free_energy_error
        assert abs(oracle.nc1 - exact.nc1) < 4 * oracle.nc1_error
    assert fine.rule.size > rough.rule.size
    assert fine.features_error < rough.features_error
    assert fine.free_energy_error < rough.free_energy_error
    again = solve_stage_one(problem, method="quasi_monte_carlo", tolerance=1e-2)
    assert torch.equal(again.residual, rough.residual)


def test_quasi_monte_carlo_in_eight_dimensions():
    problem = problem_of(8, 30, 3, 8, beta=10.0, lambda_rho=0.1)
    oracle = solve_stage_one(problem)
    assert oracle.method == "quasi_monte_carlo"
    assert oracle.features_error < 0.01 * float(oracle.features.norm())
    finer = solve_stage_one(problem, tolerance=1e-4)
    assert float((oracle.features - finer.features).norm()) < 4 * oracle.features_error
    assert abs(oracle.nc1 - finer.nc1) < 4 * oracle.nc1_error < 0.1 * oracle.nc1
    F = oracle.optimal_predictions + 0.01 * randn(30, 3)
    assert oracle.certified_distance(F) >= float((F - oracle.optimal_predictions).norm())


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: problem_of(2, 6, 2, 3, beta=math.inf), "beta = inf"),
        (lambda: problem_of(2, 6, 2, 3, lambda_rho=0.0), "lambda_rho = 0"),
        (lambda: problem_of(2, 3000, 2, 3), "6000 unknowns"),
        (lambda: replace(problem_of(2, 6, 2, 3), W=torch.zeros(3, 2).double()), "the head is zero"),
        (lambda: solve_stage_one(problem_of(4, 6, 2, 3), method="trapezoid"), "span 4 dimensions"),
        (
            lambda: solve_stage_one(problem_of(8, 30, 3, 8, beta=10.0, lambda_rho=0.1)).predictions(-50 * randn(30, 3)),
            "too far from the optimum",
        ),
        (
            lambda: solve_stage_one(problem_of(1, 4, 2, 2, activation="relu"), tolerance=1e-3).predictions(randn(4, 2)),
            "beyond 1000 standard deviations",
        ),
    ],
)
def test_refusals(attempt, message):
    with pytest.raises(OracleError, match=message) as error:
        attempt()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("d", "n", "activation", "tolerance"), [(2, 6, "relu", 1e-12), (8, 30, "tanh", 1e-2), (3, 12, "tanh", 1e-6)]
)
def test_too_many_nodes(monkeypatch, d, n, activation, tolerance):
    """Kinks, and in many dimensions a strong tilt, ask for ever more nodes."""
    monkeypatch.setattr(gibbs, "MAX_ACTIVATIONS", 2**20)
    limit = 2**20 // n
    with pytest.raises(OracleError, match=rf"^an error of {tolerance:.1e} takes more than the {limit} nodes .*reached"):
        solve_stage_one(problem_of(d, n, 2, 3, activation=activation), tolerance=tolerance)


def test_lattice_knows_its_error():
    """E cos z = e^{-1/2} converges exponentially, E|z| = √(2/π) has a kink and an error of h²/6 φ(0)."""
    cells = torch.arange(-20, 20)[:, None]
    for divisions in (2, 4, 8):
        nodes = lattice(cells, divisions)
        for f, exact, smooth in ((torch.cos, math.exp(-0.5), True), (torch.abs, math.sqrt(2 / math.pi), False)):
            terms = nodes.log_weights.exp() * f(nodes.points[:, 0])
            parts = [replica.scale * terms[replica.part].sum() for replica in nodes.replicas]
            estimate, error = nodes.error(terms.sum(), parts), abs(float(terms.sum()) - exact)
            # 1e-15: rounding of some hundred terms, and the mass outside of |z| < 10.
            assert error < 1.3 * estimate + 1e-15
            if not smooth:
                assert error == pytest.approx((CELL / divisions) ** 2 / 6 / math.sqrt(2 * math.pi), rel=0.05)
                assert estimate < 2 * error


def test_particles_end_at_the_oracle():
    """Noisy particles in the small instance of THEORY section 7, from ρ₀ to t = 8/λ."""
    N, beta, step_size = 2000, 100.0, 0.5
    networks = networks_of(1, N, 2, 3, 2, activation="sigmoid")
    problem = replace(problem_of(2, 6, 2, 3, beta=beta, lambda_rho=1 / beta), W=networks.W.data[0])
    oracle = solve_stage_one(problem)
    X, Y = problem.X[None], problem.Y[None]
    steps = round(8 * beta / step_size)
    hyper = hyperparameters(beta=beta, lambda_rho=1 / beta, lambda_w=0.0, step_size=step_size, steps=steps)
    start = float((networks.features(X)[0] - oracle.features).norm())
    Flow(networks, INTEGRATORS["exponential"], hyper, None, torch.tensor([NEVER])).advance(X, Y, 0, steps)

    difference = networks.features(X)[0] - oracle.features
    hidden = difference - difference @ problem.W @ problem.W.mT
    outside = range_fluctuation(problem, oracle.kernel, N)
    inside = head_fluctuation(problem, oracle.kernel, N)
    # Step-size bias: 2.6e-3 relative at η = 0.1, proportional to η. Few directions carry the fluctuation, each nearly
    # Gaussian: three root mean squares.
    bias = 2.6e-3 * step_size / 0.1 * float(oracle.features.norm())
    assert float(hidden.norm()) < 3 * math.sqrt(outside) + bias
    assert float(difference.norm()) < 3 * math.sqrt(outside + inside) + bias < 0.1 * start
    F = networks(X)[0]
    distance = float((F - oracle.optimal_predictions).norm())
    assert distance <= oracle.certified_distance(F) < 10 * start
