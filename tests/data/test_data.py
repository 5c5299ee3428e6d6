import shutil
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import conf
from nc_sweeps.data import LOADERS, load, load_all
from nc_sweeps.data.separable import estimate_bayes_error, sample_separable
from nc_sweeps.errors import DataError
from tests.configs import config_of

#: Data sets whose files tests/data/test_stored.py makes.
STORED = {"fashion_mnist", "cifar10", "cifar100", "cifar100_superclasses", "features"}
NAMES = sorted({path.stem for path in Path(conf.__file__).parent.glob("dataset/*.yaml")} - STORED)


def dataset_config(name, mnist_dir, *overrides):
    return config_of(f"dataset={name}", f"data_dir={mnist_dir}", *overrides).dataset


@pytest.mark.parametrize("name", NAMES)
def test_every_data_set_keeps_its_promises(name, mnist_dir):
    config = dataset_config(name, mnist_dir)
    data = load(config)
    assert config.name in LOADERS
    assert data.classes == config.class_count
    for split, per_class in ((data.train, config.train_per_class), (data.test, config.test_per_class)):
        assert split.x.dtype == np.float64
        counts = np.bincount(split.labels, minlength=data.classes)
        assert len(counts) == data.classes
        if per_class is not None:
            assert (counts == per_class).all()
        assert np.isfinite(split.x).all()
        if getattr(config, "unit_ball", True):
            assert np.linalg.norm(split.x.astype(np.float32), axis=1).max() <= 1.0
    held_out = {row.tobytes() for row in data.test.x}
    assert not any(row.tobytes() in held_out for row in data.train.x)

    again, other = load(config), load(dataset_config(name, mnist_dir, "seed=1"))
    assert np.array_equal(again.train.x, data.train.x)
    if name != "mnist":  # every sample of MNIST is taken, whatever the seed
        assert not np.array_equal(other.train.x, data.train.x)


@pytest.mark.parametrize("name", NAMES)
def test_classes_of_unequal_size_and_wrong_labels(name, mnist_dir):
    plain, hard = (
        load(dataset_config(name, mnist_dir, *overrides))
        for overrides in ((), ("dataset.imbalance=9", "dataset.label_noise=0.3"))
    )
    assert np.array_equal(hard.test.x, plain.test.x)
    assert np.array_equal(hard.test.labels, plain.test.labels)

    q, counts = plain.classes, np.bincount(plain.train.labels)
    label_of = {row.tobytes(): label for row, label in zip(plain.train.x, plain.train.labels, strict=True)}
    true = np.array([label_of[row.tobytes()] for row in hard.train.x])
    assert np.bincount(true).tolist() == [round(counts[k] * 9 ** (-k / (q - 1))) for k in range(q)]
    shift = (hard.train.labels - true) % q
    # Five standard deviations of what is drawn.
    assert np.mean(shift > 0) == pytest.approx(0.3, abs=5 * np.sqrt(0.3 * 0.7 / len(shift)))
    wrong = shift[shift > 0]
    for k in range(1, q):
        assert np.mean(wrong == k) == pytest.approx(1 / (q - 1), abs=5 * np.sqrt(0.25 / len(wrong)))


def test_imbalance_and_noise_change_nothing_else():
    uneven, noisy, both, other = (
        load(config_of(*overrides).dataset).train
        for overrides in (
            ["dataset.imbalance=9"],
            ["dataset.label_noise=0.3"],
            ["dataset.imbalance=9", "dataset.label_noise=0.3"],
            ["dataset.imbalance=9", "dataset.label_noise=0.3", "dataset.seed=1"],
        )
    )
    plain = load(config_of().dataset).train
    assert np.array_equal(noisy.x, plain.x)
    assert np.array_equal(both.x, uneven.x)
    assert len(uneven.x) == 100 + 33 + 11
    assert other.x.shape == both.x.shape
    assert not np.array_equal(other.x, both.x)
    assert not np.array_equal(other.labels, both.labels)


def test_a_class_of_which_nothing_would_be_left_is_named():
    with pytest.raises(DataError, match=r"dataset.imbalance=1000: no sample would be left of the 100 of class 2"):
        load(config_of("dataset.imbalance=1000").dataset)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 4), st.integers(0, 20), st.floats(-0.9, 0.95), st.integers(0, 1000))
def test_separable_margins_are_exact(q, extra, relative, seed):
    margin = relative / np.sqrt(q) if relative > 0 else relative
    generator = np.random.default_rng(seed)
    split = sample_separable(classes=q, dimension=q + extra, margin=margin, per_class=7, generator=generator)
    signed = split.x[:, :q] * (2 * np.eye(q)[split.labels] - 1)
    assert signed.min() >= margin
    assert np.square(split.x).sum(axis=1).max() <= 1.0
    assert np.array_equal(split.x.astype(np.float32).astype(np.float64), split.x)


@pytest.mark.parametrize(("q", "d", "margin"), [(2, 2, -0.3), (3, 5, -0.1), (3, 6, 0.2), (2, 9, 0.3)])
def test_separable_is_uniform(q, d, margin):
    """Against plain rejection from the uniform law on the ball, coordinate by coordinate and in the norm."""
    generator = np.random.default_rng(0)
    split = sample_separable(classes=q, dimension=d, margin=margin, per_class=4000, generator=generator)
    found = split.x[split.labels == 0]
    signs = 2 * np.eye(q)[0] - 1
    ball = generator.standard_normal((3_000_000, d))
    ball *= (generator.random(len(ball)) ** (1 / d) / np.linalg.norm(ball, axis=1))[:, None]
    expected = ball[(ball[:, :q] * signs >= margin).all(axis=1)]
    assert len(expected) > 1000
    for of in (*(lambda x, j=j: x[:, j] for j in range(d)), lambda x: np.linalg.norm(x, axis=1)):
        assert stats.ks_2samp(of(found), of(expected)).pvalue > 1e-4


@pytest.mark.parametrize(("d", "per_class"), [(100_000, 2), (5_000, 300)])
def test_separable_draws_no_more_than_it_needs(d, per_class):
    """16,384 proposals of all coordinates would be 13 GB; 900 samples of 5,000 take three chunks."""
    tracemalloc.start()
    split, again = (
        sample_separable(classes=3, dimension=d, margin=0.3, per_class=per_class, generator=np.random.default_rng(0))
        for _ in range(2)
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * split.x.nbytes + 100e6
    assert np.array_equal(again.x, split.x)
    assert (split.x[:, :3] * (2 * np.eye(3)[split.labels] - 1)).min() >= 0.3
    assert np.square(split.x).sum(axis=1).max() <= 1.0
    assert np.array_equal(split.x.astype(np.float32).astype(np.float64), split.x)
    assert len(np.unique(split.x[:, -1])) > 0.99 * len(split.x)


def test_separable_says_when_nothing_is_accepted(monkeypatch):
    # The package binds the function to the name of its module.
    monkeypatch.setattr(sys.modules["nc_sweeps.data.separable"], "_MAX_BATCHES", 1)
    settings_of_law = {"classes": 3, "dimension": 10, "margin": 0.3, "generator": np.random.default_rng(0)}
    assert len(sample_separable(per_class=10, **settings_of_law).x) == 30
    with pytest.raises(DataError, match=r"dataset.margin=0.3 with 3 classes in 10 dimensions: fewer than 60000 of"):
        sample_separable(per_class=20_000, **settings_of_law)


@pytest.mark.parametrize(("d", "error"), [(5, 0.08), (20, 0.22), (100, 0.48)])
def test_bayes_error_of_overlapping_classes(d, error):
    """Known values for q = 3 at τ = −0.1, to the two digits that are stated."""
    split = sample_separable(classes=3, dimension=d, margin=-0.1, per_class=20_000, generator=np.random.default_rng(1))
    # Standard error of a mean of 60,000 numbers in [0, 2/3]: below 0.0014.
    assert estimate_bayes_error(split.x, 3, -0.1) == pytest.approx(error, abs=0.005 + 4 * 0.0014)


def test_bayes_error_is_zero_when_separated():
    split = sample_separable(classes=3, dimension=5, margin=0.05, per_class=100, generator=np.random.default_rng(1))
    assert estimate_bayes_error(split.x, 3, 0.05) == 0.0


@pytest.mark.parametrize("distance", [0.0, 8.0])
def test_gaussian_class_means_stand_at_their_distance(distance):
    data = load(
        config_of("dataset=gaussian", f"separation.distance={distance}", "dataset.train_per_class=20000").dataset
    )
    means = np.array([data.train.x[data.train.labels == k].mean(axis=0) for k in range(3)])
    within = np.mean([data.train.x[data.train.labels == k].std(axis=0).mean() for k in range(3)])
    for k, other in ((0, 1), (0, 2), (1, 2)):
        # A coordinate of a difference of means has standard deviation √(2/20000) = 0.01; eight of them, 5 deviations.
        assert np.linalg.norm(means[k] - means[other]) / within == pytest.approx(distance, abs=0.15)


def test_too_few_samples_are_an_error_that_says_so():
    with pytest.raises(DataError, match=r"dataset.train_per_class=500: class \d has only 1\d\d samples"):
        load(config_of("dataset=digits", "dataset.train_per_class=500").dataset)


@pytest.mark.parametrize("size", [0, 3, 16, 1_000_000])
@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
def test_a_truncated_mnist_file_is_named(tmp_path, mnist_dir, size, file):
    raw = tmp_path / "MNIST" / "raw"
    shutil.copytree(mnist_dir / "MNIST" / "raw", raw, copy_function=shutil.copyfile)
    (raw / file).write_bytes((raw / file).read_bytes()[: min(size, 50_000)])
    with pytest.raises(DataError, match=str(raw)) as info:
        load(dataset_config("mnist", tmp_path))
    assert "\n" not in str(info.value)


def test_mnist_mod3_relabels(mnist_dir):
    digits = load(dataset_config("mnist", mnist_dir, "dataset.unit_ball=false"))
    thirds = load(dataset_config("mnist_mod3", mnist_dir))
    assert np.array_equal(thirds.test.labels, digits.test.labels % 3)
    assert np.array_equal(thirds.test.x, digits.test.x)
    assert thirds.train.x.shape == (30_000, 784)
    assert thirds.train.x.max() == 1.0


def test_what_is_the_same_is_loaded_once(mnist_dir):
    overrides = ["dataset=mnist", f"data_dir={mnist_dir}"]
    whole = load_all([config_of(*overrides, f"seed={seed}").dataset for seed in (1, 2)])
    assert whole[0] is whole[1]
    for hard in ("dataset.imbalance=2", "dataset.label_noise=0.1"):
        assert config_of(*overrides, hard).dataset.is_sampled
    some = [*overrides, "dataset.train_per_class=5"]
    drawn = load_all([config_of(*some, f"seed={seed}").dataset for seed in (1, 2, 1)])
    assert drawn[0] is drawn[2]
    assert not np.array_equal(drawn[0].train.x, drawn[1].train.x)
