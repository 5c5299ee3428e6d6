"""Class statistics agree with sums over samples in NumPy, however they are merged."""

from dataclasses import astuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nc_sweeps.metrics.statistics import ClassStatistics, class_statistics, merge
from tests.metrics.samples import samples, targets

EPS = np.finfo(np.float64).eps


def numpy_statistics(H, labels, q):
    p = H.shape[1]
    counts, means, squares, scatter = np.zeros(q), np.zeros((q, p)), np.zeros(q), np.zeros((p, p))
    for k in np.unique(labels):
        members = H[labels == k]
        counts[k] = len(members)
        means[k] = members.mean(axis=0)
        for h in members:
            squares[k] += np.sum((h - means[k]) ** 2)
            scatter += np.outer(h - means[k], h - means[k])
    return counts, means, squares, scatter


def assert_same(found: ClassStatistics, expected, H, operations):
    """Compare up to rounding: ``operations`` roundings of a mean, each of eps·max‖h‖, and their effect on the squares.

    The sum S of n squares about a mean that is wrong by ε is off by 2ε√(nS) + nε² at most, by Cauchy and Schwarz.
    """
    counts, means, squares, scatter = expected
    mean_error = operations * EPS * np.linalg.norm(H, axis=1).max()
    S, n = np.sum((H - H.mean(axis=0)) ** 2), len(H)
    square_error = operations * EPS * S + 2 * mean_error * np.sqrt(n * S) + n * mean_error**2
    np.testing.assert_array_equal(found.counts.numpy(), counts)
    np.testing.assert_allclose(found.means.numpy(), means, rtol=0, atol=mean_error)
    np.testing.assert_allclose(found.sums_of_squares.numpy(), squares, rtol=0, atol=square_error)
    np.testing.assert_allclose(found.scatter.numpy(), scatter, rtol=0, atol=square_error)


@settings(deadline=None)
@given(samples(every_class=False))
def test_one_batch(sample):
    H, labels, q = sample
    found = class_statistics(torch.tensor(H), targets(labels, q))
    assert_same(found, numpy_statistics(H, labels, q), H, operations=4 * len(H))
    assert float(found.sums_of_squares.sum()) == pytest.approx(float(found.scatter.trace()), rel=1e-12)


@settings(deadline=None)
@given(samples(every_class=False), st.data())
def test_any_split_merged_in_any_order(sample, data):
    H, labels, q = sample
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    parts = data.draw(st.integers(1, len(H)))
    cuts = np.sort(rng.choice(np.arange(1, len(H)), size=parts - 1, replace=False)) if parts > 1 else []
    batches = np.split(rng.permutation(len(H)), cuts)
    known = [class_statistics(torch.tensor(H[b]), targets(labels[b], q)) for b in batches]
    while len(known) > 1:
        a = known.pop(rng.integers(len(known)))
        b = known.pop(rng.integers(len(known)))
        known.append(merge(a, b))
    # A sample goes through its batch and at most `parts` merges, each of which rounds a mean four times.
    assert_same(known[0], numpy_statistics(H, labels, q), H, operations=4 * (len(H) + parts))


def test_merging_with_nothing_is_exact_and_with_equal_means_keeps_them():
    H, labels = torch.randn(20, 3, dtype=torch.float64) / 3 + 7, torch.arange(20) % 2
    something = class_statistics(H, targets(labels, 4))
    nothing = ClassStatistics(*(torch.zeros_like(part) for part in astuple(something)))
    for merged in (merge(something, nothing), merge(nothing, something)):
        for found, expected in zip(astuple(merged), astuple(something), strict=True):
            assert torch.equal(found, expected)
    # 0.1 is no binary fraction and 3 + 4 no power of two, so that only a difference of exactly zero keeps the mean.
    batches = [class_statistics(torch.full((n, 3), 0.1), torch.ones(n, 1)) for n in (3, 4)]
    merged = merge(*batches)
    assert torch.equal(merged.means, torch.full((1, 3), 0.1).double())
    assert float(merged.sums_of_squares) == 0
    assert not merged.scatter.any()


def test_a_collapsed_class_has_exactly_no_variance_in_any_stream():
    rng = np.random.default_rng(0)
    centres, labels = 1e4 + rng.standard_normal((3, 5)), rng.integers(3, size=100)
    known = class_statistics(torch.tensor(centres[labels[:7]]), targets(labels[:7], 3))
    for i in range(7, 100, 31):
        known = merge(
            known, class_statistics(torch.tensor(centres[labels[i : i + 31]]), targets(labels[i : i + 31], 3))
        )
    assert torch.equal(known.means, torch.tensor(centres))
    assert not known.sums_of_squares.any()
    assert not known.scatter.any()


def test_offsets_cost_no_digits_in_single_precision():
    """Sums in float32 would have no digit of the variance 1 of features at 1e4."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=600)
    H = (1e4 + rng.standard_normal((3, 4))[labels] + rng.standard_normal((600, 4))).astype(np.float32)
    _, means, squares, scatter = numpy_statistics(H.astype(np.float64), labels, 3)
    Y = targets(labels, 3).float()
    found = merge(class_statistics(torch.tensor(H[:250]), Y[:250]), class_statistics(torch.tensor(H[250:]), Y[250:]))
    assert all(part.dtype == torch.float64 for part in astuple(found))
    # NumPy's means are rounded to eps·1e4 and enter the squares in second order only.
    np.testing.assert_allclose(found.means.numpy(), means, rtol=1e-14)
    np.testing.assert_allclose(found.sums_of_squares.numpy(), squares, rtol=1e-12)
    np.testing.assert_allclose(found.scatter.numpy(), scatter, rtol=0, atol=1e-12 * squares.sum())


def test_runs_are_independent():
    rng = np.random.default_rng(1)
    H, labels = torch.tensor(rng.standard_normal((2, 3, 9, 4))), rng.integers(3, size=(2, 3, 9))
    Y = targets(labels, 3)
    together = class_statistics(H, Y)
    together = merge(together, class_statistics(H.flip(-1), Y))
    for index in np.ndindex(2, 3):
        alone = merge(class_statistics(H[index], Y[index]), class_statistics(H[index].flip(-1), Y[index]))
        for found, expected in zip(astuple(together), astuple(alone), strict=True):
            torch.testing.assert_close(found[index], expected, rtol=1e-13, atol=1e-13)


def test_gradients():
    labels = [0, 0, 1, 1, 1, 2]
    H = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)

    def parts(H):
        known = class_statistics(H, targets(labels, 4))
        return known.means, known.sums_of_squares, known.scatter

    assert torch.autograd.gradcheck(parts, (H,))
