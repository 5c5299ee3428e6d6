r"""Measure CPU time and memory of ``NeuralCollapse``, which passes over features once, against two passes.

Run by hand, on Linux: ``python benchmarks/collapse_metrics.py``. Every row of the table is a process of its own. Its
memory is the largest resident set less the resident set before the first batch, which includes the features.

- *one pass*: :class:`nc_sweeps.metrics.NeuralCollapse`.
- *two passes, a covariance a class*: class means first, then the covariance of every class, as in the definitions.
- *two passes, one scatter matrix*: class means first, then all residuals at once; the least that two passes can do.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from nc_sweeps.metrics import NeuralCollapse

Batches = Callable[[], Iterator[tuple[Tensor, Tensor]]]


def pass_once(batches: Batches, classes: int, dimension: int) -> dict[str, float]:
    """Compute the metrics as the package does."""
    metric = NeuralCollapse(classes, dimension)
    for H, labels in batches():
        metric.update(H, labels)
    return {name: float(value) for name, value in metric.compute().items()}


def find_class_means(batches: Batches, classes: int, dimension: int) -> tuple[Tensor, Tensor]:
    """Return counts and means of the classes: the first pass."""
    counts = torch.zeros(classes, dtype=torch.float64)
    sums = torch.zeros(classes, dimension, dtype=torch.float64)
    for H, labels in batches():
        counts.index_add_(0, labels, torch.ones(len(labels), dtype=torch.float64))
        sums.index_add_(0, labels, H.double())
    return counts, sums / counts.unsqueeze(-1)


def pass_twice_for_covariances(batches: Batches, classes: int, dimension: int) -> dict[str, float]:
    """Compute the metrics by their definitions, with a covariance for each class."""
    counts, means = find_class_means(batches, classes, dimension)
    scatter = torch.zeros(classes, dimension, dimension, dtype=torch.float64)
    for H, labels in batches():
        for k in set(labels.tolist()):
            residual = H[labels == k].double() - means[k]
            scatter[k] += residual.mT @ residual
    return compute_nc1(counts, means, scatter.diagonal(dim1=-2, dim2=-1).sum(dim=-1), scatter.sum(dim=0))


def pass_twice_for_scatter(batches: Batches, classes: int, dimension: int) -> dict[str, float]:
    """Compute the metrics with one scatter matrix: two passes cannot do less."""
    counts, means = find_class_means(batches, classes, dimension)
    squares = torch.zeros(classes, dtype=torch.float64)
    scatter = torch.zeros(dimension, dimension, dtype=torch.float64)
    for H, labels in batches():
        residual = H.double() - means[labels]
        squares.index_add_(0, labels, residual.square().sum(dim=-1))
        scatter.addmm_(residual.mT, residual)
    return compute_nc1(counts, means, squares, scatter)


def compute_nc1(counts: Tensor, means: Tensor, squares: Tensor, scatter: Tensor) -> dict[str, float]:
    """Return NC1 by its definitions, computed independently of the package."""
    classes, n = len(counts), counts.sum()
    mean = (counts.unsqueeze(-1) * means).sum(dim=0) / n
    between = (means - mean).mT @ (counts.unsqueeze(-1) / n * (means - mean))
    within = scatter / n
    singular = torch.linalg.svdvals(between)
    rank = min(classes - 1, len(scatter))
    inverse = torch.linalg.pinv(between, rtol=float(singular[rank - 1] / singular[0]) / 2, hermitian=True)
    v = squares / counts
    distances = (means.unsqueeze(1) - means).square().sum(dim=-1)
    ratios = ((v.unsqueeze(1) + v) / (2 * distances))[~torch.eye(classes, dtype=torch.bool)]
    return {
        "nc1": float(within.trace() / (within.trace() + between.trace())),
        "nc1_trace_ratio": float(within.trace() / between.trace()),
        "nc1_pseudo_inverse": float((within @ inverse).trace() / classes),
        "nc1_cdnv": float(ratios.mean()),
        "nc1_cdnv_worst": float(ratios.max()),
    }


WAYS = {
    "one pass": pass_once,
    "two passes, a covariance a class": pass_twice_for_covariances,
    "two passes, one scatter matrix": pass_twice_for_scatter,
}


def read_resident_bytes(field: str) -> int:
    """Return the bytes of the resident set: ``VmRSS`` now, ``VmHWM`` the largest since the mark was cleared."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def measure(way: str, samples: int, dimension: int, classes: int, batch: int) -> dict[str, Any]:
    """Return seconds of CPU time, bytes and values of one way, measured in this process."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (samples,), generator=generator)
    centres = torch.randn(classes, dimension, generator=generator)
    H = torch.empty(samples, dimension)
    for rows, classes_of_rows in zip(torch.split(H, batch), torch.split(labels, batch), strict=True):
        rows.normal_(generator=generator).mul_(0.1).add_(centres[classes_of_rows])
    # The first product and the first decomposition load libraries, which count for no way.
    small = torch.eye(64, dtype=torch.float64)
    torch.linalg.svd(small @ small)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        return zip(torch.split(H, batch), torch.split(labels, batch), strict=True)

    Path("/proc/self/clear_refs").write_text("5")
    before, start = read_resident_bytes("VmRSS"), time.process_time()
    found = WAYS[way](batches, classes, dimension)
    seconds = time.process_time() - start
    return {"seconds": seconds, "bytes": read_resident_bytes("VmHWM") - before, "values": found}


def main() -> None:
    """Measure all ways, or only the one for which this process was started."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--batch", type=int, default=1_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3, help="the fastest counts")
    parser.add_argument("--only", choices=WAYS, help="measure one way in this process and print JSON")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.only:
        found = measure(chosen.only, chosen.samples, chosen.dimension, chosen.classes, chosen.batch)
        print(json.dumps(found))
        return

    # Ways take turns, so that other processes disturb all of them alike.
    results: dict[str, dict[str, Any]] = {}
    for _ in range(chosen.repeats):
        for way in WAYS:
            command = [sys.executable, __file__, *sys.argv[1:], "--only", way]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            results[way] = min(results.get(way, found), found, key=lambda result: result["seconds"])

    reference = results["one pass"]
    table = Table(
        title=f"{chosen.samples:,} × {chosen.dimension} float32 features, {chosen.classes} classes, batches of "
        f"{chosen.batch:,}, {chosen.threads} thread(s)"
    )
    for column in ("way", "CPU seconds", "ratio", "memory, MiB", "largest relative difference"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for way, found in results.items():
        pairs = [(value, reference["values"][name]) for name, value in found["values"].items()]
        difference = max(abs(value - expected) / abs(expected) for value, expected in pairs)
        table.add_row(
            way,
            f"{found['seconds']:.2f}",
            f"{found['seconds'] / reference['seconds']:.2f}",
            f"{found['bytes'] / 2**20:.0f}",
            f"{difference:.1e}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
