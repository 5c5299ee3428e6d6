"""NC1 to NC4 agree with definitions in NumPy, have their invariances, and have the values that are known exactly."""

import math
from functools import partial
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nc_sweeps.metrics.collapse import nc1, nc1_trace_ratio, nc4
from nc_sweeps.metrics.statistics import ClassStatistics, class_statistics
from tests.metrics.samples import MEASURES, NC1, NC2, NC3, compute_measures, samples, targets


def values(H, labels, q, W):
    found = compute_measures(class_statistics(torch.as_tensor(H), targets(labels, q)), torch.as_tensor(W))
    return {name: float(value) for name, value in found.items()}


def unit(Z):
    return Z / np.linalg.norm(Z)


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def numpy_values(H, labels, q, W):
    n, mean = len(H), H.mean(axis=0)
    classes = [H[labels == k] for k in range(q)]
    M = np.stack([members.mean(axis=0) for members in classes])
    within = sum(np.outer(h - M[k], h - M[k]) for h, k in zip(H, labels, strict=True)) / n
    between = sum(np.outer(M[k] - mean, M[k] - mean) for k in labels) / n
    singular, rank = np.linalg.svd(between)[1], min(q - 1, H.shape[1])
    pinv = np.linalg.pinv(between, rcond=0.5 * singular[rank - 1] / singular[0])
    pairs = list(permutations(range(q), 2))
    v = [np.mean([np.sum((h - M[k]) ** 2) for h in classes[k]]) for k in range(q)]
    cdnv = [(v[k] + v[m]) / (2 * np.sum((M[k] - M[m]) ** 2)) for k, m in pairs]
    C = M - M.mean(axis=0)
    norms, centred_norms = np.linalg.norm(M, axis=1), np.linalg.norm(C, axis=1)
    simplex = (np.eye(q) - np.ones((q, q)) / q) / math.sqrt(q - 1)
    expected = {
        "nc1": np.trace(within) / (sum(np.sum((h - mean) ** 2) for h in H) / n),
        "nc1_trace_ratio": np.trace(within) / np.trace(between),
        "nc1_pseudo_inverse": np.trace(within @ pinv) / q,
        "nc1_cdnv": np.mean(cdnv),
        "nc1_cdnv_worst": np.max(cdnv),
        "nc2_norm_variation": np.sqrt(np.mean((centred_norms - centred_norms.mean()) ** 2)) / centred_norms.mean(),
        "nc2_simplex_angle": np.mean([abs(cosine(C[k], C[m]) + 1 / (q - 1)) for k, m in pairs]),
        "nc2_simplex_distance": np.linalg.norm(unit(C @ C.T) - simplex),
        "nc2_frame_norm_variation": np.sqrt(np.mean((norms - norms.mean()) ** 2)) / norms.mean(),
        "nc2_frame_angle": np.mean([abs(cosine(M[k], M[m])) for k, m in pairs]),
        "nc2_frame_distance": np.linalg.norm(unit(M @ M.T) - np.eye(q) / math.sqrt(q)),
        "nc3_duality": np.linalg.norm(unit(W.T) - unit(C)),
        "nc3_frame_duality": np.linalg.norm(unit(W.T) - unit(M)),
        "nc3_misalignment": 1 - np.mean([cosine(W[:, k], C[k]) for k in range(q)]),
        "nc3_product_distance": np.linalg.norm(unit(C @ W) - simplex),
    }
    if max(map(len, classes)) == 1:  # no class has anything within it
        expected |= dict.fromkeys(NC1, math.nan)
    # Rounding of the features, eps·‖h‖, in units of the smallest length that a formula divides by, is eps times this.
    lengths = [np.linalg.norm(M[k] - M[m]) for k, m in pairs]
    lengths += [*norms, *centred_norms, np.linalg.norm(C @ W) / np.linalg.norm(W)]
    amplification = np.linalg.norm(H, axis=1).max() / min(lengths)
    # The reference inverts Σ_B, whose condition is the square of that of the class means, which the code inverts.
    return expected, amplification, singular[0] / singular[rank - 1]


@settings(deadline=None, max_examples=150)
@given(samples(), st.integers(0, 2**32))
def test_against_numpy(sample, seed):
    H, labels, q = sample
    W = np.random.default_rng(seed).standard_normal((H.shape[1], q))
    expected, amplification, condition = numpy_values(H, labels, q, W)
    assume(condition < 1e6)
    found = values(H, labels, q, W)
    # There are up to 45 samples, and errors grow with their number. Mean squares of size 1e-12 are differences of
    # features that are rounded to eps·‖h‖, and NumPy's means carry a share of this error.
    variance = np.trace(np.cov(H.T, bias=True).reshape(H.shape[1], -1))
    within = expected["nc1"] * variance if len(H) > q else 0.0
    slack = 1e-13 * (1 + np.linalg.norm(H, axis=1).max() / math.sqrt(within or math.inf))
    for name, value in expected.items():
        relative = 1e-13 * (1 + amplification) ** 2 * (condition if name == "nc1_pseudo_inverse" else 1)
        assert found[name] == pytest.approx(value, rel=relative + slack, abs=relative, nan_ok=True), name
    if len(H) > q:
        assert 0 <= found["nc1"] <= 1
        assert found["nc1_trace_ratio"] == pytest.approx(found["nc1"] / (1 - found["nc1"]), rel=1e-9)


@settings(deadline=None)
@given(samples(), st.integers(0, 2**32))
def test_invariances(sample, seed):
    """Order of the samples, numbering of the classes, rotation and scale change no measure; translation changes only
    those of a frame.
    """
    H, labels, q = sample
    p = H.shape[1]
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((p, q))
    _, amplification, condition = numpy_values(H, labels, q, W)
    assume(condition < 1e6)
    rotation, _ = np.linalg.qr(rng.standard_normal((p, p)))
    order, number = rng.permutation(len(H)), rng.permutation(q)
    W_numbered = np.empty_like(W)
    W_numbered[:, number] = W
    before = values(H, labels, q, W)
    moved = values(3.7 * H[order] @ rotation, number[labels[order]], q, 0.2 * rotation.T @ W_numbered)
    # Rotated features are rounded again, to eps·‖h‖, which is a large share of a small variance.
    variance = before["nc1"] * np.sum((H - H.mean(axis=0)) ** 2) / len(H) if len(H) > q else 0.0
    slack = 1e-12 * (1 + amplification) ** 2 * condition
    slack += 1e-12 * np.linalg.norm(H, axis=1).max() / math.sqrt(variance or math.inf)
    for name, value in before.items():
        assert moved[name] == pytest.approx(value, rel=slack, abs=slack, nan_ok=True), name
    shifted = values(H + rng.standard_normal(p), labels, q, W)
    for name in before:
        if "frame" not in name:
            assert shifted[name] == pytest.approx(before[name], rel=slack, abs=slack, nan_ok=True), name
    assert shifted["nc2_frame_norm_variation"] != pytest.approx(before["nc2_frame_norm_variation"], rel=1e-12)


def simplex_vertices(q, p, seed):
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((p, p)))
    return (np.eye(q, p) - np.eye(p)[:q].sum(axis=0) / q) @ rotation, rotation


@pytest.mark.parametrize("q", [2, 3, 10])
def test_exact_simplex(q):
    vertices, _ = simplex_vertices(q, q + 2, q)
    labels = np.concatenate([np.repeat(np.arange(q), 3), np.zeros(5, dtype=int)])
    offset = np.random.default_rng(q).standard_normal(q + 2)
    found = values(5 * vertices[labels] + offset, labels, q, 0.3 * vertices.T)
    assert found["nc1"] < 1e-30
    for name in NC1:
        assert found[name] < 1e-29, name
    for name in [*NC2, *NC3]:
        if "frame" not in name:
            assert abs(found[name]) < 1e-14, name
    # The head of another class is as far as the simplex allows: cos = −1/(q − 1).
    wrong = values(5 * vertices[labels] + offset, labels, q, np.roll(vertices, 1, axis=0).T)
    assert wrong["nc3_misalignment"] == pytest.approx(1 + 1 / (q - 1))
    assert wrong["nc3_duality"] == pytest.approx(math.sqrt(2 + 2 / (q - 1)))


@pytest.mark.parametrize("q", [2, 3, 10])
def test_exact_orthogonal_frame(q):
    rotation, _ = np.linalg.qr(np.random.default_rng(q).standard_normal((q + 2, q + 2)))
    frame = rotation[:q]
    labels = np.concatenate([np.repeat(np.arange(q), 3), np.zeros(5, dtype=int)])
    found = values(5 * frame[labels], labels, q, 0.3 * frame.T)
    for name in [*NC2, "nc3_frame_duality", "nc3_product_distance"]:
        assert abs(found[name]) < 1e-14, name  # a centred frame is a simplex
    # ⟨W/‖W‖, M̃/‖M̃‖⟩ = √((q − 1)/q).
    assert found["nc3_duality"] == pytest.approx(math.sqrt(2 - 2 * math.sqrt((q - 1) / q)))
    simplex, _ = simplex_vertices(q, q + 2, q)
    assert values(simplex[labels], labels, q, frame.T)["nc2_frame_angle"] == pytest.approx(1 / (q - 1))


def test_nc1_by_hand():
    """Two classes on a line at ±1 ± s: all forms are s² times a number."""
    s = 1e-3
    found = values(np.array([[1 + s], [1 - s], [-1 + s], [-1 - s]]), [0, 0, 1, 1], 2, np.array([[1.0, -1.0]]))
    assert found["nc1"] == pytest.approx(s**2 / (1 + s**2))
    assert found["nc1_trace_ratio"] == pytest.approx(s**2)
    assert found["nc1_pseudo_inverse"] == pytest.approx(s**2 / 2)
    assert found["nc1_cdnv"] == pytest.approx(s**2 / 4)
    assert found["nc1_cdnv_worst"] == pytest.approx(s**2 / 4)


def test_pseudo_inverse_is_truncated_at_its_rank():
    """With 100 features and 3 classes a threshold instead of the rank would divide by rounding errors."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 200)
    centres, noise = np.eye(3, 100), 1e-2 * rng.standard_normal((600, 100))
    found = values(1e4 + centres[labels] + noise, labels, 3, centres.T)["nc1_pseudo_inverse"]
    # Σ_B has the eigenvalue 1/3 on the plane of the centres, on which the noise has the variance 1e-4: 2·3e-4/3.
    assert found == pytest.approx(2e-4, rel=0.1)


def test_nc1_of_collapsed_and_of_constant_features():
    Y = targets([0, 0, 1, 1, 2], 3)
    collapsed = Y @ torch.randn(3, 4, dtype=torch.float64)
    assert float(nc1(class_statistics(collapsed, Y))) < 1e-30
    for constant in (0.0, 0.1):
        statistics = class_statistics(torch.full((5, 4), constant, dtype=torch.float64), Y)
        found = compute_measures(statistics, torch.randn(4, 3))
        undefined = {name for name, value in found.items() if value.isnan()}
        frame = {name for name in MEASURES if "frame" in name}
        assert undefined == (set(MEASURES) - frame if constant else set(MEASURES))


def test_nc1_is_right_when_collapse_happens_far_from_the_origin():
    """The features lie at 1e4 with a variance of 1e-10 within classes: moments about zero would have no digit left."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 50)
    H = rng.standard_normal((3, 4))[labels] + 1e-5 * rng.standard_normal((150, 4))
    W = rng.standard_normal((4, 3))
    expected, *_ = numpy_values(H, labels, 3, W)
    found = values(1e4 + H, labels, 3, W)
    for name in set(MEASURES) - {name for name in MEASURES if "frame" in name}:
        # The rounding of the offset features themselves, 1e4·2⁻⁵³ per entry, is 1e-7 of the noise.
        assert found[name] == pytest.approx(expected[name], rel=1e-6), name


@pytest.mark.parametrize("name", NC1)
def test_nc1_ignores_classes_without_samples(name):
    rng = np.random.default_rng(2)
    H, labels = rng.standard_normal((12, 4)), np.arange(12) % 3
    gaps = np.array([0, 2, 3])[labels]
    W = np.zeros((4, 5))
    assert values(H, gaps, 5, W)[name] == pytest.approx(values(H, labels, 3, W[:, :3])[name], rel=1e-13)


def test_nc2_and_nc3_need_every_class():
    found = values(np.random.default_rng(2).standard_normal((6, 4)), [0, 0, 1, 1, 3, 3], 4, np.ones((4, 4)))
    assert all(math.isnan(found[name]) for name in [*NC2, *NC3])
    assert not any(math.isnan(found[name]) for name in NC1)


def statistics_of_nothing(q, p):
    zeros = partial(torch.zeros, dtype=torch.float64)
    return ClassStatistics(zeros(q), zeros(q, p), zeros(q), zeros(p, p))


def test_undefined_values():
    rng = np.random.default_rng(3)
    H, labels, W = rng.standard_normal((8, 4)), np.repeat(np.arange(2), 4), rng.standard_normal((4, 2))

    def undefined(H, labels, q, W):
        return {name for name, value in values(H, labels, q, W).items() if math.isnan(value)}

    one_class = undefined(H, np.zeros(8, dtype=int), 2, W)
    assert one_class == set(MEASURES)
    assert set(NC3) == undefined(H, labels, 2, np.zeros((4, 2)))
    assert undefined(H, labels, 2, W * [1, 0]) == {"nc3_misalignment"}
    # Two of three classes have the same mean: Σ_B has rank 1, not 2, and one distance is zero.
    doubled = np.array([[1.0, 0], [-1, 0], [1, 0], [-1, 0], [0, 5], [0, 7]])
    assert undefined(doubled, np.repeat(np.arange(3), 2), 3, W[:2, [0, 1, 0]]) == {
        "nc1_pseudo_inverse",
        "nc1_cdnv",
        "nc1_cdnv_worst",
        "nc2_frame_angle",
    }
    assert all(value.isnan() for value in compute_measures(statistics_of_nothing(3, 2), torch.ones(2, 3)).values())


def test_runs_are_independent_even_of_a_diverged_one():
    rng = np.random.default_rng(4)
    H, labels, W = rng.standard_normal((3, 9, 4)), np.arange(9) % 3, rng.standard_normal((3, 4, 3))
    H[1, 0, 0] = np.inf
    together = compute_measures(class_statistics(torch.tensor(H), targets(labels, 3).expand(3, 9, 3)), torch.tensor(W))
    for run in (0, 2):
        for name, value in values(H[run], labels, 3, W[run]).items():
            assert float(together[name][run]) == pytest.approx(value, rel=1e-12), name
    # Some cosines of other classes are still defined, but no measure of the diverged run is finite.
    assert all(not value[1].isfinite() for value in together.values())


@settings(deadline=None)
@given(samples(every_class=False), st.integers(0, 2**32))
def test_nc4(sample, seed):
    H, labels, q = sample
    F = np.random.default_rng(seed).standard_normal((len(H), q))
    F[::2] += 10 * np.eye(q)[labels[::2]]
    present = np.unique(labels)
    wrong = 0
    for h, f in zip(H, F, strict=True):
        distances = [np.linalg.norm(h - H[labels == k].mean(axis=0)) for k in present]
        assume(len(present) == 1 or np.diff(np.sort(distances))[0] > 1e-10)  # a tie may go either way
        wrong += np.argmax(f) != present[np.argmin(distances)]
    statistics = class_statistics(torch.tensor(H), targets(labels, q))
    assert float(nc4(torch.tensor(H), torch.tensor(F), statistics)) == pytest.approx(wrong / len(H), abs=1e-15)


def test_nc4_tells_centres_apart_that_are_close_to_each_other_and_far_from_zero():
    centres = torch.tensor([[1e4, 0.0], [1e4 + 1e-6, 0.0], [0.0, 0.0]], dtype=torch.float64)
    statistics = class_statistics(centres, torch.eye(3))
    assert float(nc4(centres + 1e-7, torch.eye(3), statistics)) == 0
    assert float(nc4(centres, torch.eye(3).roll(1, 0), statistics)) == 1


def test_nc4_undefined():
    H, Y = torch.randn(4, 2, dtype=torch.float64), targets([0, 1, 2, 2], 3)
    statistics = class_statistics(H, Y)
    assert torch.isnan(nc4(H, Y.where(Y > 0, torch.nan), statistics))
    assert torch.isnan(nc4(H.where(Y[:, :1] > 0, torch.inf), Y, statistics))
    assert not torch.isnan(nc4(H, Y.log(), statistics))
    assert torch.isnan(nc4(H, Y, statistics_of_nothing(3, 2)))


@pytest.mark.parametrize("name", NC1)
def test_nc1_needs_two_classes_and_two_samples_of_one(name):
    """There is nothing to compare with one sample of each class, or with samples of one class alone."""
    H = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    W = torch.ones(5, 3, dtype=torch.float64)
    for labels in ([0, 1, 2], [1, 1, 1], [0, 2], [0]):
        assert math.isnan(values(H[: len(labels)], labels, 3, W)[name]), labels
    assert math.isfinite(values(H, [0, 0, 2], 3, W)[name])


def test_trace_ratio_and_nc1_weigh_samples():
    """A class of 9 at 0 and one of 1 at 1: tr Σ_B = 0.9·0.1."""
    H = torch.zeros(10, 1, dtype=torch.float64)
    H[0] = 1.0
    H[1], H[2] = 0.3, -0.3
    statistics = class_statistics(H, targets([1] + [0] * 9, 2))
    assert float(nc1_trace_ratio(statistics)) == pytest.approx(0.018 / 0.09)
    assert float(nc1(statistics)) == pytest.approx(0.018 / 0.108)
