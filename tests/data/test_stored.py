"""Readers of published formats, on small files in those formats."""

import pickle
import pickletools

import numpy as np
import pytest
from safetensors.numpy import save_file

from nc_sweeps.config.datasets import SUPERCLASSES
from nc_sweeps.data import load
from nc_sweeps.errors import ConfigError, DataError
from tests.configs import config_of
from tests.data import formats
from tests.doubles import MaliciousPickle


def dataset_of(name, data_dir, *overrides):
    return load(config_of(f"dataset={name}", f"data_dir={data_dir}", *overrides).dataset)


def in_class_order(x, labels, classes):
    return [sorted(map(bytes, x[labels == k])) for k in range(classes)]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def cifar100(data_dir):
    return formats.cifar100(data_dir)


@pytest.fixture(scope="module")
def cifar10(data_dir):
    return formats.cifar10(data_dir)


@pytest.fixture(scope="module")
def fashion_mnist(data_dir):
    return formats.fashion_mnist(data_dir)


def test_what_the_tests_write_is_what_torchvision_reads():
    """The arrays of Python 2, read by NumPy itself in the way of torchvision."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3072), dtype=np.uint8)
    written = formats.python2_pickle({"data": pixels, "fine_labels": [3, 1, 2], "filenames": ["a", "b", "c"]})
    content = pickle.loads(written, encoding="latin1")
    assert np.array_equal(content["data"], pixels)
    assert content["data"].dtype == np.uint8
    assert content["fine_labels"] == [3, 1, 2]
    named = {entry for _, entry, _ in pickletools.genops(written) if entry and str(entry).startswith("numpy")}
    assert named == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}


def test_cifar10(data_dir, cifar10):
    data = dataset_of("cifar10", data_dir, "dataset.unit_ball=false")
    assert data.shape == (3, 32, 32)
    assert data.classes == 10
    pixels = np.concatenate([cifar10[f"data_batch_{number}"][0] for number in range(1, 6)])
    labels = np.concatenate([cifar10[f"data_batch_{number}"][1] for number in range(1, 6)])
    assert np.array_equal(data.train.x, pixels / 255.0)
    assert np.array_equal(data.train.labels, labels)
    assert np.array_equal(data.test.x, cifar10["test_batch"][0] / 255.0)
    assert np.array_equal(data.test.labels, cifar10["test_batch"][1])


def test_fashion_mnist(data_dir, fashion_mnist):
    data = dataset_of("fashion_mnist", data_dir, "dataset.unit_ball=false")
    assert data.shape == (1, 28, 28)
    for split, name in ((data.train, "train"), (data.test, "t10k")):
        assert np.array_equal(split.x, fashion_mnist[name][0].reshape(-1, 784) / 255.0)
        assert np.array_equal(split.labels, fashion_mnist[name][1])


@pytest.mark.parametrize(("name", "column", "classes"), [("cifar100", 1, 100), ("cifar100_superclasses", 2, 20)])
def test_cifar100_fine_and_coarse(data_dir, cifar100, name, column, classes):
    data = dataset_of(name, data_dir, "dataset.unit_ball=false", f"model.features={classes}")
    assert data.classes == classes
    for split, file in ((data.train, "train"), (data.test, "test")):
        assert np.array_equal(split.x, cifar100[file][0] / 255.0)
        assert np.array_equal(split.labels, cifar100[file][column])


def test_some_super_classes_in_the_order_in_which_they_are_named(data_dir, cifar100):
    names = ["people", "aquatic_mammals", "large_carnivores"]
    chosen = f"dataset.superclasses=[{','.join(names)}]"
    data = dataset_of("cifar100_superclasses", data_dir, chosen, "dataset.unit_ball=false")
    pixels, fine, coarse = cifar100["train"]
    assert data.classes == 3
    for k, name in enumerate(names):
        members = coarse == SUPERCLASSES.index(name)
        assert np.array_equal(data.train.x[data.train.labels == k], pixels[members] / 255.0)
        assert len(set(fine[members])) == 5  # a super-class has five fine ones
    some = dataset_of("cifar100_superclasses", data_dir, chosen, "dataset.train_per_class=4", "dataset.imbalance=2")
    assert np.bincount(some.train.labels).tolist() == [4, 3, 2]
    assert np.linalg.norm(some.train.x.astype(np.float32), axis=1).max() <= 1.0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["dataset.superclasses=[people,fish]"], "needs dataset.classes=superclass"),
        (
            ["dataset.classes=superclass", "dataset.superclasses=[peple,fish]"],
            "peple: no super-class of CIFAR-100",
        ),
        (["dataset.classes=superclass", "dataset.superclasses=[fish]"], "must be two or more different ones"),
        (["dataset.classes=superclass", "dataset.superclasses=[fish,fish]"], "must be two or more different ones"),
        (["dataset.classes=coarse"], "dataset.classes=coarse: must be one of fine, superclass"),
        (["dataset=features"], "dataset.path: set it to a file of features, as nc-features writes it"),
        (["dataset=features", "dataset.path=nowhere"], "dataset.path=nowhere: no such file; nc-features writes it"),
    ],
)
def test_bad_keys_are_one_line(overrides, message):
    base = [] if "dataset=features" in overrides else ["dataset=cifar100", "model.features=100"]
    with pytest.raises(ConfigError) as info:
        config_of(*base, *overrides)
    assert message in str(info.value)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("name", "folder", "torchvision_name"),
    [
        ("cifar10", "cifar-10-batches-py", "CIFAR10"),
        ("cifar100", "cifar-100-python", "CIFAR100"),
        ("fashion_mnist", "FashionMNIST/raw", "FashionMNIST"),
    ],
)
def test_what_is_missing_comes_with_the_command_that_gets_it(tmp_path, name, folder, torchvision_name):
    with pytest.raises(DataError) as info:
        dataset_of(name, tmp_path, "model.features=100")
    assert f"no {torchvision_name} in {tmp_path}/{folder}; get it with python -c " in str(info.value)
    assert f"{torchvision_name}('{tmp_path}', download=True)" in str(info.value)
    assert "\n" not in str(info.value)


WHOLE = {"fine_labels": [0, 1], "coarse_labels": [4, 1], "data": np.zeros((2, 3072), np.uint8)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "EOFError"),
        (b"not a pickle", "UnpicklingError"),
        (formats.python2_pickle(WHOLE)[:3000], "truncated"),
        (formats.python2_pickle([1, 2]), "AttributeError"),
        (formats.python2_pickle({"data": [1, 2], "fine_labels": [0, 1]}), "AttributeError"),
        (formats.python2_pickle({"data": WHOLE["data"]}), "fine_labels"),
        (formats.python2_pickle(WHOLE | {"fine_labels": [0]}), "expected n×3072 bytes and n whole numbers"),
        (formats.python2_pickle(WHOLE | {"fine_labels": ["a", "b"]}), "expected n×3072 bytes and n whole numbers"),
        (formats.python2_pickle(WHOLE | {"fine_labels": [0, 100]}), "labels in 0 … 99"),
        (formats.python2_pickle(WHOLE | {"fine_labels": [0, -1]}), "labels in 0 … 99"),
        (formats.python2_pickle(WHOLE), "has no sample of class 2"),
        (formats.python2_pickle(WHOLE | {"data": np.zeros((2, 3000), np.uint8)}), "expected n×3072 bytes"),
        (formats.python2_pickle(WHOLE).replace(b"u1", b"O8"), "an array of other things than bytes"),
        (pickle.dumps({"data": np.zeros((2, 3072))}), "an array of other things than bytes"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, content, message):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name in ("train", "test"):
        (folder / name).write_bytes(content)
    with pytest.raises(DataError, match="cifar-100-python") as info:
        dataset_of("cifar100", tmp_path, "model.features=100")
    assert message in str(info.value)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("protocol", range(6))
def test_a_file_is_never_executed(tmp_path, protocol):
    folder, trace = tmp_path / "cifar-100-python", tmp_path / "trace"
    folder.mkdir()
    malicious = pickle.dumps(WHOLE | {"filenames": MaliciousPickle(trace)}, protocol=protocol)
    (folder / "train").write_bytes(malicious)
    with pytest.raises(DataError, match=r"cifar-100-python/train: damaged \(UnpicklingError: it asks for "):
        dataset_of("cifar100", tmp_path, "model.features=100")
    assert not trace.exists()
    pickle.loads(malicious)
    assert trace.exists()  # it would have


@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_damaged_idx_file_is_named(tmp_path, file):
    formats.fashion_mnist(tmp_path)
    path = tmp_path / "FashionMNIST" / "raw" / file
    whole = path.read_bytes()
    for content in (b"", whole[:6], whole[:-5], b"\x00\x00\x0e" + whole[3:], whole[:7] + b"\x05" + whole[8:-1]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="FashionMNIST/raw") as info:
            dataset_of("fashion_mnist", tmp_path)
        assert "\n" not in str(info.value)


def tensors(**changes):
    generator = np.random.default_rng(0)
    whole = {
        "train_features": generator.normal(size=(9, 5)).astype(np.float32),
        "train_labels": np.arange(9) % 3,
        "test_features": generator.normal(size=(4, 5)).astype(np.float32),
        "test_labels": np.arange(4) % 3,
    }
    return {name: value for name, value in (whole | changes).items() if value is not None}


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_features_are_what_the_file_holds(tmp_path, kind):
    path = tmp_path / "a name with, commas.safetensors"
    written = tensors(train_labels=(np.arange(9) % 3).astype(np.uint8))
    written |= {name: written[name].astype(kind) for name in ("train_features", "test_features")}
    save_file(written, path)
    override = f"dataset.path='{path}'"
    data = dataset_of("features", tmp_path, override, "dataset.unit_ball=false")
    assert (data.classes, data.shape) == (3, (5,))
    for split, name in ((data.train, "train"), (data.test, "test")):
        assert np.array_equal(split.x, written[f"{name}_features"].astype(np.float64))
        assert np.array_equal(split.labels, written[f"{name}_labels"])
    some = dataset_of("features", tmp_path, override, "dataset.train_per_class=2", "dataset.test_per_class=1")
    assert np.bincount(some.train.labels).tolist() == [2, 2, 2]
    assert np.linalg.norm(some.train.x.astype(np.float32), axis=1).max() <= 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_labels": None}, "has no test_labels; a file of features is described in docs/data.md"),
        ({"train_features": np.zeros((9, 5, 1), np.float32)}, "train_features must hold floating-point numbers in 2"),
        ({"train_features": np.zeros((9, 5), np.int64)}, "train_features must hold floating-point numbers in 2"),
        ({"train_labels": np.zeros(9, np.float32)}, "train_labels must hold whole numbers in 1 dimensions"),
        ({"train_labels": np.zeros(0, np.int64)}, "train_labels must hold whole numbers in 1 dimensions"),
        ({"train_labels": np.zeros(9, np.int64)}, "dataset.classes=1: must be at least 2"),
        ({"test_features": np.full((4, 5), np.nan, np.float32)}, "test_features has entries that are NaN or infinite"),
        ({"test_features": np.zeros((4, 6), np.float32)}, "train_features have 5 columns and test_features 6"),
        ({"test_features": np.zeros((3, 5), np.float32)}, "3 rows of test_features and 4 of test_labels"),
        ({"test_labels": np.array([0, 1, 2, 3])}, "the test set must have samples with labels in 0 … 2"),
        ({"test_labels": np.array([0, 1, 2, -1])}, "the test set must have samples with labels in 0 … 2"),
        ({"train_labels": np.array([0, 0, 0, 1, 1, 1, 3, 3, 3])}, "the train set has no sample of class 2"),
    ],
)
def test_features_that_are_no_data_set_are_one_line(tmp_path, changes, message):
    path = tmp_path / "features.safetensors"
    save_file(tensors(**changes), path)
    with pytest.raises((DataError, ConfigError)) as info:
        dataset_of("features", tmp_path, f"dataset.path={path}")
    assert message in str(info.value)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("content", [b"", b"x" * 100, pickle.dumps(tensors())])
def test_a_file_that_is_no_safetensors_file_is_one_line(tmp_path, content):
    path = tmp_path / "features.safetensors"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"dataset.path={path}: cannot be read") as info:
        dataset_of("features", tmp_path, f"dataset.path={path}")
    assert "\n" not in str(info.value)


def test_what_a_file_of_features_holds_is_a_part_of_the_signature(tmp_path):
    from nc_sweeps.config import compute_signature

    first, copy, other = (tmp_path / name for name in ("first", "copy", "other"))
    for path, changes in ((first, {}), (copy, {}), (other, {"test_labels": np.array([0, 1, 2, 1])})):
        save_file(tensors(**changes), path)
    configs = [config_of("dataset=features", f"dataset.path={path}") for path in (first, copy, other)]
    assert compute_signature(configs[0]) == compute_signature(configs[1]) != compute_signature(configs[2])

    save_file(tensors(test_labels=np.array([0, 1, 2, 2])), first)
    with pytest.raises(DataError, match=r"is not the file that was asked for: its SHA-256 is not dataset.digest="):
        load(configs[0].dataset)
