"""Part of section ``sweep``: the package's final metrics against those of a plain loop in float64.

``nc-train`` runs as a user runs it, in float32 and packed. The loop, :mod:`benchmarks.peers.float64_loop`, begins with
the same data and the same initial state and shares nothing else with it. Without noise both must end alike. With noise,
each has its own, and the mean difference over seeds must be within its sampling error.
"""

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from benchmarks.command import NC_TRAIN, time_command
from benchmarks.peers import float64_loop
from benchmarks.report import print_table, print_target
from nc_sweeps import load_sweep
from nc_sweeps.activations import ACTIVATIONS
from nc_sweeps.config.datasets import SeparableConfig
from nc_sweeps.data import load
from nc_sweeps.models.mean_field import initialise_networks

METRICS = ("loss/train", "nc1/train", "nc1/test")
_STEP_SIZE, _DECAY = 0.5, 1e-3
_D, _P, _Q, _M = 16, 8, 3, 200


@dataclass(frozen=True)
class Cell:
    """Runs that differ in nothing but the seed."""

    N: int
    margin: float
    seeds: int
    steps: int
    beta: float


def main(quick: bool) -> None:
    """Compare without and with noise."""
    steps = 50 if quick else 1000
    _without_noise([Cell(N, margin, 2, steps, math.inf) for N in (64, 256) for margin in (-0.1, 0.2)])
    _with_noise([Cell(64, margin, 8, 50 if quick else 400, 1e3) for margin in (-0.1, 0.2)])


def _without_noise(cells: list[Cell]) -> None:
    rows, worst = [], 0.0
    for cell in cells:
        ours, theirs = _run_ours(cell), _run_loop(cell)
        errors = {name: float(((ours[name] - theirs[name]) / theirs[name]).abs().max()) for name in METRICS}
        worst = max(worst, *errors.values())
        values = [f"{float(theirs[name][0]):.4g}" for name in METRICS]
        rows.append([f"{cell.N}", f"{cell.margin:g}", *values, *(f"{errors[name]:.1e}" for name in METRICS)])
    print_table(
        f"Without noise, {cells[0].steps} steps, {cells[0].seeds} seeds: relative difference to the float64 loop",
        ["N", "margin", *METRICS, *(f"Δ {name}" for name in METRICS)],
        rows,
        "Values of seed 0 in the loop; the largest difference over seeds.",
    )
    print_target("largest relative difference", worst, most=1e-4)


def _with_noise(cells: list[Cell]) -> None:
    rows, worst = [], 0.0
    for cell in cells:
        ours, theirs = _run_ours(cell), _run_loop(cell)
        for name in METRICS:
            difference = ours[name] - theirs[name]
            z = float(difference.mean() / (difference.std() / math.sqrt(cell.seeds)))
            worst = max(worst, abs(z))
            means = [f"{float(values[name].mean()):.5g}" for values in (ours, theirs)]
            rows.append([f"{cell.N}", f"{cell.margin:g}", name, *means, f"{z:+.2f}"])
    print_table(
        f"With noise, {cells[0].steps} steps: means over {cells[0].seeds} seeds",
        ["N", "margin", "metric", "ours", "float64 loop", "z"],
        rows,
        "z: mean over seeds of the difference, in standard errors of that mean.",
        left=(2,),
    )
    # One in a thousand of Student's t with 7 degrees of freedom is beyond 5.4; six are compared.
    print_target("largest |z|", worst, most=5.4)


def _run_ours(cell: Cell) -> dict[str, Tensor]:
    """Return the last value of every metric, one for each seed."""
    command = [
        *(NC_TRAIN, "-m", "hydra/launcher=packed", "name=agreement", f"seed=range({cell.seeds})"),
        *(f"width.particles={cell.N}", f"separation.margin={cell.margin}", f"model.features={_P}"),
        *(f"dataset.dimension={_D}", f"dataset.train_per_class={_M}", f"dataset.test_per_class={_M}"),
        *("dynamics=gradient_flow", "dynamics.integrator=euler_maruyama", f"dynamics.step_size={_STEP_SIZE}"),
        *(f"dynamics.beta={cell.beta:g}", f"dynamics.lambda_rho={_DECAY}", f"dynamics.lambda_w={_DECAY}"),
        *(f"dynamics.horizon={cell.steps}", "metrics.points=3"),
    ]
    with tempfile.TemporaryDirectory() as directory:
        time_command(command, directory)
        table_of_runs = load_sweep(Path(directory) / "results" / "agreement")
    last = table_of_runs.sort("seed", "step").group_by("seed", maintain_order=True).last()
    return {name: torch.tensor(last.get_column(name).cast(pl.Float64).to_list()) for name in METRICS}


def _run_loop(cell: Cell) -> dict[str, Tensor]:
    """Return the same numbers, found by the loop."""
    seeds = range(cell.seeds)
    configs = [SeparableConfig("separable", seed, 1.0, 0.0, _Q, _D, _M, _M, cell.margin) for seed in seeds]
    sets = [load(config) for config in configs]
    X, X_test = (torch.stack([torch.from_numpy(getattr(s, name).x) for s in sets]) for name in ("train", "test"))
    Y, Y_test = (
        torch.stack([torch.nn.functional.one_hot(torch.from_numpy(getattr(s, name).labels), _Q).double() for s in sets])
        for name in ("train", "test")
    )
    ones = [1.0] * cell.seeds
    start = initialise_networks(
        list(seeds),
        particles=cell.N,
        dimension=_D,
        features=_P,
        classes=_Q,
        scale_u=ones,
        scale_a=ones,
        scale_w=ones,
        gamma=ones,
        activation=ACTIVATIONS["tanh"],
        dtype=torch.float64,
    )
    state = float64_loop.train(
        (start.U, start.A, start.W),
        X,
        Y,
        steps=cell.steps,
        step_size=_STEP_SIZE,
        decay=_DECAY,
        beta=cell.beta,
        generator=torch.Generator().manual_seed(0),
    )
    values = (
        float64_loop.loss(state, X, Y),
        float64_loop.nc1(state, X, Y),
        float64_loop.nc1(state, X_test, Y_test),
    )
    return dict(zip(METRICS, values, strict=True))
