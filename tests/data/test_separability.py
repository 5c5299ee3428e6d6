import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linprog, minimize
from scipy.stats import ortho_group
from threadpoolctl import threadpool_limits

from nc_sweeps.data import load
from nc_sweeps.data.separability import RESOLUTION, find_least_violations, find_margin, find_separation
from nc_sweeps.data.separable import sample_separable
from tests.configs import config_of

SEEDS = st.integers(0, 10_000)


def signed(x, labels, k):
    return x * np.where(labels == k, 1.0, -1.0)[:, None]


def separable_by_design(seed, q, n, d, gap):
    """Gaussian samples pushed off q random planes; class k is on the positive side of plane k only."""
    generator = np.random.default_rng(seed)
    planes = ortho_group.rvs(d, random_state=generator)[:q] if d > 1 else np.ones((1, 1))
    labels = generator.integers(0, q, n)
    signs = 2 * np.eye(q)[labels] - 1
    x = generator.standard_normal((n, d))
    along = x @ planes.T
    return x + (signs * (np.abs(along) + gap) - along) @ planes, labels


def brute_force(z):
    """Largest min_i z_i·u over the circle: it is attained along some z_i or where two of the products are equal."""
    candidates = [*z, *((a - b)[::-1] * [1, -1] for a, b in itertools.combinations(z, 2))]
    units = [u / np.linalg.norm(u) for u in candidates if np.linalg.norm(u) > 0]
    return max([0.0] + [(z @ (sign * u)).min() for u in units for sign in (1, -1)])


def feasible(z):
    return linprog(np.zeros(z.shape[1]), A_ub=-z, b_ub=-np.ones(len(z)), bounds=(None, None)).status == 0


@settings(max_examples=150, deadline=None)
@given(arrays(float, st.tuples(st.integers(1, 8), st.just(2)), elements=st.integers(-4, 4)), st.integers(1, 3), SEEDS)
def test_margins_in_the_plane_against_brute_force(x, q, seed):
    """Small integers: zero samples, duplicates, contradictions, absent classes and collinear points abound."""
    labels = np.random.default_rng(seed).integers(0, q, len(x))
    found = find_separation(x, labels, q)
    expected = np.array([brute_force(signed(x, labels, k)) for k in range(q)])
    assert found.class_margins == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert found.margin == found.class_margins.min()
    assert find_margin(x, labels, q) == pytest.approx(found.margin, rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 4), st.integers(1, 40), st.integers(0, 4), st.sampled_from([1e-2, 0.3]))
def test_margins_against_a_quadratic_program(seed, q, n, extra, gap):
    x, labels = separable_by_design(seed, q, n, q + extra, gap)
    found = find_separation(x, labels, q)
    for k in range(q):
        z = signed(x, labels, k)
        # Least distance programming by sequential quadratic programming, from the direction found but another length.
        solved = minimize(
            lambda w: w @ w / 2,
            2.0 * found.directions[k] / found.class_margins[k] + 0.1,
            jac=lambda w: w,
            constraints={"type": "ineq", "fun": lambda w, z=z: z @ w - 1, "jac": lambda w, z=z: z},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert 1 / np.linalg.norm(solved.x) == pytest.approx(found.class_margins[k], rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 4), st.integers(1, 300), st.integers(1, 12))
def test_every_answer_comes_with_its_proof(seed, q, n, d):
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((n, d))
    labels = np.argmax(x @ generator.standard_normal((d, q)) + 0.1 * generator.standard_normal((n, q)), axis=1)
    found = find_separation(x, labels, q)
    scale = np.linalg.norm(x, axis=1).max()
    for k in range(q):
        z = signed(x, labels, k)
        assert (found.class_margins[k] > 0) == feasible(z)
        if found.class_margins[k] > 0:
            assert np.linalg.norm(found.directions[k]) == pytest.approx(1.0, abs=1e-12)
            assert (z @ found.directions[k]).min() == pytest.approx(found.class_margins[k], rel=1e-12)
            # Below 1e-4 of the largest norm rounding shows.
            if found.bounds[k] > 1e-4 * scale:
                assert found.class_margins[k] == pytest.approx(found.bounds[k], rel=1e-6)
        else:
            assert not found.directions[k].any()
            assert found.bounds[k] <= RESOLUTION * scale


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(2, 4), st.floats(1e-3, 1e3))
def test_margins_ignore_rotation_and_order_and_scale_with_the_data(seed, q, factor):
    x, labels = separable_by_design(seed, q, 40, 6, 0.1)
    expected = find_separation(x, labels, q)
    generator = np.random.default_rng(seed)
    rotation, order = ortho_group.rvs(6, random_state=generator), generator.permutation(len(x))
    moved = find_separation(factor * (x @ rotation.T)[order], labels[order], q)
    assert moved.class_margins == pytest.approx(factor * expected.class_margins, rel=1e-8)
    assert moved.directions == pytest.approx(expected.directions @ rotation.T, abs=1e-4)
    renamed = find_separation(x, (labels + 1) % q, q)
    assert renamed.class_margins == pytest.approx(np.roll(expected.class_margins, 1), rel=1e-8)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(2, 6), st.integers(1, 3), st.integers(0, 4))
def test_in_the_unit_ball_the_margin_has_a_ceiling(seed, q, per_class, extra):
    x, labels = separable_by_design(seed, q, q * per_class, q + extra, 0.5)
    labels[:q] = np.arange(q)
    x /= np.linalg.norm(x, axis=1).max()
    assert find_margin(x, labels, q) <= q / (3 * q - 4) * (1 + 1e-12)


@pytest.mark.parametrize("q", [2, 3, 5])
def test_the_ceiling_is_attained_by_a_raised_simplex(q):
    """x_k = (√A y_k, −√B), û_k = (√A y_k, √B), y a unit simplex of products −1/(q−1), A + B = 1, B = (q−2)/(3q−4)."""
    below = (q - 2) / (3 * q - 4)
    simplex = np.sqrt(q / (q - 1)) * (np.eye(q) - 1 / q)
    x = np.hstack([np.sqrt(1 - below) * simplex, np.full((q, 1), -np.sqrt(below))])
    found = find_separation(x, np.arange(q), q)
    assert found.margin == pytest.approx(q / (3 * q - 4), rel=1e-12)
    assert found.directions == pytest.approx(x * np.append(np.ones(q), -1.0), abs=1e-9)


@pytest.mark.parametrize(("q", "d", "population"), [(2, 2, np.sqrt(2) * 0.3), (3, 3, 0.3), (4, 6, 0.3)])
def test_samples_of_a_known_law_converge_from_above(q, d, population):
    split = sample_separable(classes=q, dimension=d, margin=0.3, per_class=4000, generator=np.random.default_rng(0))
    found = []
    for per_class in (10, 200, 4000):
        part = np.concatenate([np.flatnonzero(split.labels == k)[:per_class] for k in range(q)])
        found.append(find_margin(split.x[part], split.labels[part], q))
    assert found == sorted(found, reverse=True)
    assert population <= found[-1] <= 1.05 * population


def test_touching_and_overlapping_samples_are_inseparable():
    split = sample_separable(classes=3, dimension=5, margin=-0.1, per_class=300, generator=np.random.default_rng(0))
    assert find_margin(split.x, split.labels, 3) == 0.0
    assert (find_separation(split.x, split.labels, 3).class_margins == 0.0).all()
    assert (find_least_violations(split.x, split.labels, 3) > 0.0).all()


@pytest.mark.parametrize("spoiler", ["zero", "contradiction", "opposite"])
def test_one_sample_can_spoil_it(spoiler):
    x, labels = separable_by_design(1, 2, 50, 4, 0.3)
    assert find_margin(x, labels, 2) > 0.0
    extra = {"zero": 0.0, "contradiction": 1.0, "opposite": -1.0}[spoiler] * x[:1]
    label = labels[:1] if spoiler == "opposite" else 1 - labels[:1]
    x, labels = np.concatenate([x, extra]), np.concatenate([labels, label])
    assert find_margin(x, labels, 2) == find_separation(x, labels, 2).margin == 0.0
    assert find_separation(np.zeros((3, 2)), np.array([0, 1, 1]), 2).margin == 0.0


def test_an_absent_class_asks_for_one_side_of_the_origin():
    x = np.array([[1.0, 1.0], [1.0, -1.0]])
    found = find_separation(x, np.array([0, 0]), 2)
    assert found.class_margins == pytest.approx([1.0, 1.0])
    assert found.directions == pytest.approx(np.array([[1.0, 0.0], [-1.0, 0.0]]))
    assert find_separation(np.concatenate([x, -x]), np.zeros(4, dtype=int), 2).margin == 0.0


def test_more_dimensions_than_samples():
    generator = np.random.default_rng(0)
    x, labels = generator.standard_normal((30, 3000)), np.arange(30) % 3
    found = find_separation(x, labels, 3)
    for k in range(3):
        assert (signed(x, labels, k) @ found.directions[k]).min() == pytest.approx(found.bounds[k], rel=1e-9)
    assert find_margin(x, labels, 3) == found.margin > 0.0


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(2, 60), st.integers(1, 60), st.integers(1, 60), st.floats(-4.0, 0.0))
def test_rounding_is_not_taken_for_a_dimension(seed, n, d, rank, smallest):
    """Samples of any rank, in coordinates of very different sizes: the same yes or no as a linear program."""
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((n, rank)) @ generator.standard_normal((rank, d))
    x *= 10.0 ** generator.uniform(smallest, 0.0, d)
    x /= np.linalg.norm(x, axis=1).max()
    labels = (x @ generator.standard_normal(d) + 0.1 * generator.standard_normal(n) > 0).astype(int)
    found = find_margin(x, labels, 2)
    assert (found > 0.0) == feasible(signed(x, labels, 0))
    assert found == pytest.approx(find_separation(x, labels, 2).margin, rel=1e-6, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 3), st.integers(1, 25), st.integers(1, 4), st.sampled_from([1e-3, 1.0, 1e4]))
def test_least_violation_against_the_primal_program(seed, q, n, d, factor):
    generator = np.random.default_rng(seed)
    x, labels = factor * generator.standard_normal((n, d)), generator.integers(0, q, n)
    found = find_least_violations(x, labels, q)
    for k in range(q):
        z = signed(x, labels, k) / factor
        primal = linprog(
            np.concatenate([np.zeros(d), np.full(n, 1 / n)]),
            A_ub=-np.hstack([z, np.eye(n)]),
            b_ub=-np.ones(n),
            bounds=[(None, None)] * d + [(0, None)] * n,
        )
        assert found[k] == pytest.approx(primal.fun, abs=1e-7)
        assert (found[k] > 1e-7) == (not feasible(z))


@settings(max_examples=40, deadline=None)
@given(arrays(float, st.tuples(st.integers(1, 8), st.just(1)), elements=st.integers(-3, 3)), SEEDS)
def test_least_violation_on_the_line_against_brute_force(x, seed):
    labels = np.random.default_rng(seed).integers(0, 2, len(x))
    for k, found in enumerate(find_least_violations(x, labels, 2)):
        z = signed(x, labels, k)[:, 0]
        # Piecewise linear in w, so smallest at a kink.
        kinks = np.concatenate([[0.0], 1 / z[z != 0]])
        assert found == pytest.approx(np.maximum(0, 1 - np.outer(kinks, z)).mean(axis=1).min(), abs=1e-9)
        assert found <= 1.0


def test_mnist_modulo_three_is_inseparable(mnist_dir):
    data = load(config_of("dataset=mnist_mod3", f"data_dir={mnist_dir}").dataset)
    # Two threads on a busy machine wait for each other ten times longer than one takes.
    with threadpool_limits(1):
        assert find_margin(data.train.x, data.train.labels, 3) == 0.0
