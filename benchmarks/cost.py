"""Section ``cost``: seconds that ensembles take from their first to their last step, measurements included, against
those that are predicted after calibration on this machine. The tests compare bytes with their prediction.
"""

import time
from statistics import median

from torch import Tensor

from benchmarks.neighbours import wait_for_quiet
from benchmarks.report import print_table, print_target
from nc_sweeps.composition import compose_config
from nc_sweeps.config import RunConfig, parse
from nc_sweeps.data import load_all
from nc_sweeps.training.calibration import measure_speed
from nc_sweeps.training.ensembles import FlowEnsemble, LoadedRun

#: Number of runs of each ensemble, and their overrides besides the seed.
ENSEMBLES: tuple[tuple[int, tuple[str, ...]], ...] = (
    (8, ("width.particles=64",)),
    (8, ("width.particles=1024", "dynamics=noisy_gradient_flow", "dynamics.horizon=1000")),
    (2, ("width.particles=4096", "dataset.dimension=64", "dynamics.horizon=500")),
    (1, ("width.particles=6272", "dataset.dimension=784", "dynamics=sgd", "dynamics.horizon=60")),
    (16, ("width.particles=256", "dynamics=noisy_sgd")),
)
_TOLERANCE = 0.3
_REPEATS = 3


class NoRecord:
    """A record that keeps nothing."""

    def append(self, row: dict[str, int | float]) -> None:
        """Drop a row."""

    def flush(self) -> None:
        """Write nothing."""

    def save(self, state: dict[str, Tensor], step: int) -> None:
        """Drop a state."""

    def finish(self, status: str, reason: str = "") -> None:
        """Ignore the end."""


def main(quick: bool) -> None:
    """Calibrate, predict, train and compare."""
    rows, worst = [], 0.0
    for runs, overrides in ENSEMBLES:
        configs = [_config(f"seed={seed}", *overrides) for seed in range(runs)]
        data = load_all([config.dataset for config in configs])
        ratios, taken = [], []
        for _ in range(1 if quick else _REPEATS):
            wait_for_quiet()
            members = [LoadedRun(config, own, NoRecord()) for config, own in zip(configs, data, strict=True)]
            ensemble = FlowEnsemble(members)
            predicted = measure_speed().predict_seconds(ensemble.size, runs)
            begin = time.perf_counter()
            ensemble.train()
            taken.append(time.perf_counter() - begin)
            ratios.append(predicted / taken[-1])
        ratio = median(ratios)
        worst = max(worst, abs(ratio - 1))
        rows.append([f"{runs}", " ".join(overrides), f"{median(taken):.2f}", f"{ratio:.2f}"])
    print_table(
        "Seconds of an ensemble, and predicted / measured", ("runs", "overrides", "s", "ratio"), rows, left=(1,)
    )
    print_target("largest relative error", worst, most=_TOLERANCE)


def _config(*overrides: str) -> RunConfig:
    return parse(compose_config(overrides))
