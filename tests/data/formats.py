"""Small data sets in the formats in which the real ones are published."""

import struct
from pathlib import Path

import numpy as np

#: Of the hundred fine classes the super-class, as the official files have it.
COARSE = (
    4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7,
    6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10,
    16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16,
    12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13,
)  # fmt: skip


def cifar100(data_dir, train_per_class=2, test_per_class=1):
    """``cifar-100-python``: random pixels, brighter for higher super-classes; returns them by file."""
    folder = Path(data_dir, "cifar-100-python")
    folder.mkdir(parents=True)
    written = {}
    for name, per_class in (("train", train_per_class), ("test", test_per_class)):
        generator = np.random.default_rng(per_class)
        fine = generator.permutation(np.repeat(np.arange(100), per_class))
        coarse = np.array(COARSE)[fine]
        pixels = (generator.integers(0, 60, (len(fine), 3072)) + 10 * coarse[:, None]).astype(np.uint8)
        content = {
            "filenames": [f"picture_{i}.png" for i in range(len(fine))],
            "batch_label": f"{name}ing batch 1 of 1",
        }
        content |= {"fine_labels": fine.tolist(), "coarse_labels": coarse.tolist(), "data": pixels}
        (folder / name).write_bytes(python2_pickle(content))
        written[name] = pixels, fine, coarse
    return written


def cifar10(data_dir, per_batch=20):
    """``cifar-10-batches-py``: five training batches and one for testing; returns them by file."""
    folder = Path(data_dir, "cifar-10-batches-py")
    folder.mkdir(parents=True)
    written = {}
    for seed, name in enumerate([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]):
        generator = np.random.default_rng(seed)
        pixels = generator.integers(0, 256, (per_batch, 3072), dtype=np.uint8)
        labels = generator.permutation(np.arange(per_batch) % 10)
        content = {"batch_label": name, "labels": labels.tolist(), "data": pixels, "filenames": ["x.png"] * per_batch}
        (folder / name).write_bytes(python2_pickle(content))
        written[name] = pixels, labels
    return written


def fashion_mnist(data_dir, train=40, test=20):
    """``FashionMNIST/raw``: idx files, a header of big-endian numbers and bytes; returns them by name."""
    raw = Path(data_dir, "FashionMNIST", "raw")
    raw.mkdir(parents=True)
    written = {}
    for name, count in (("train", train), ("t10k", test)):
        generator = np.random.default_rng(count)
        pixels = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = generator.permutation(np.arange(count) % 10).astype(np.uint8)
        header = struct.pack(">4B3I", 0, 0, 8, 3, count, 28, 28)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, count) + labels.tobytes())
        written[name] = pixels, labels
    return written


def python2_pickle(value):
    """A pickle of protocol 2 as Python 2 and its NumPy wrote it, which is what the official files are."""
    return b"\x80\x02" + _python2(value) + b"."


def _python2(value):
    if isinstance(value, dict):
        return b"}(" + b"".join(_python2(key) + _python2(entry) for key, entry in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(_python2, value)) + b"e"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, str):
        return _python2(value.encode())
    if isinstance(value, bytes):
        return b"T" + struct.pack("<i", len(value)) + value
    rows, columns = value.shape
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + _python2(b"b") + b"tR"
    kind = b"cnumpy\ndtype\n(" + _python2(b"u1") + b"K\x00K\x01tR(K\x03" + _python2(b"|") + b"NNN"
    kind += _python2(-1) + _python2(-1) + b"K\x00tb"
    shape = b"(" + _python2(rows) + _python2(columns) + b"t"
    return empty + b"(K\x01" + shape + kind + b"\x89" + _python2(value.tobytes()) + b"tb"
