"""Section ``sweep``: the reference sweep, 64 noisy runs of 2,000 steps each, from command to exit.

The package runs the whole sweep. Peers run :mod:`benchmarks.peers.template_app` at every width for some of the steps,
between two sweeps of the package. Their time for the whole sweep is computed from

- the seconds of a step after the first few, and of a measurement, as the app itself clocks them,
- the seconds that a run takes besides (set-up, and the work of Lightning at both ends),
- the seconds that a process takes besides its runs: start, imports, the first use of everything, exit.

The package measures its whole catalogue of metrics, certificate included; the peers measure NC1. The targets are the
ratios that the project aims at.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmarks import agreement
from benchmarks.command import NC_TRAIN, Finished, time_command
from benchmarks.neighbours import wait_for_quiet
from benchmarks.peers import template_app
from benchmarks.report import console, print_table, print_target

WIDTHS = (64, 256, 1024, 4096)
RUNS_A_WIDTH = 16
POINTS = 40
_CORES = 2
_APP = Path(template_app.__file__)

#: Steps of the peers at each width; they take a few seconds a run.
_STEPS = {64: 200, 256: 200, 1024: 80, 4096: 30}

ONE_PROCESS, JOBLIB, PROCESS_A_RUN = "one process", "joblib, 2 processes", "a process a run"


@dataclass(frozen=True)
class Cost:
    """Times of a peer, as measured.

    Args:
        process: seconds of a process besides its runs.
        run: seconds of a run besides its steps and measurements, if it is not the first of its process.
        step, measurement: seconds of a step and of a measurement.
    """

    process: float
    run: float
    step: float
    measurement: float

    def run_seconds(self, steps: int) -> float:
        """Return the seconds of a run of the reference sweep."""
        return self.run + steps * self.step + POINTS * self.measurement


def main(quick: bool) -> None:
    """Measure, extrapolate, compare, and check that the numbers are right."""
    steps = 200 if quick else 2000
    ours = [_run_ours(steps)]
    costs: dict[str, dict[int, Cost]] = {ONE_PROCESS: {}, JOBLIB: {}, PROCESS_A_RUN: {}}
    for width in WIDTHS:
        few = _STEPS[width] // 4 if quick else _STEPS[width]
        # Two runs in a process and four on two workers show how much more a first run costs than the others.
        costs[ONE_PROCESS][width] = _measure_peer(width, few, runs=2, workers=1)
        costs[JOBLIB][width] = _measure_peer(width, few, runs=4, workers=2)
        costs[PROCESS_A_RUN][width] = _measure_peer(width, few, runs=1, workers=1)
    if not quick:
        ours.append(_run_ours(steps))
    _print_costs(costs, quick)
    _print_sweep(ours, costs, steps)
    agreement.main(quick)


def _run_ours(steps: int) -> Finished:
    command = [
        *(NC_TRAIN, "-m", "hydra/launcher=packed", "name=reference", "width.particles=64,256,1024,4096"),
        *("separation.margin=-0.1,0.05,0.2,0.35", "seed=range(4)", "dataset.dimension=16"),
        *("dataset.train_per_class=200", "model.features=8", "dynamics=noisy_gradient_flow"),
        *(f"dynamics.horizon={steps}", f"metrics.points={POINTS}"),
    ]
    with tempfile.TemporaryDirectory() as directory:
        wait_for_quiet()
        return time_command(command, directory)


def _measure_peer(width: int, steps: int, runs: int, workers: int) -> Cost:
    """Measure runs of the app under Hydra's own launcher, or under joblib with one thread a worker."""
    options = [f"width={width}", f"steps={steps}", "points=8", f"seed=range({runs})", f"threads={_CORES // workers}"]
    if workers > 1:
        options += ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={workers}"]
    with tempfile.TemporaryDirectory() as directory:
        wait_for_quiet()
        wall = time_command([sys.executable, str(_APP), "-m", *options], directory).seconds
        found = [json.loads(path.read_text()) for path in Path(directory).rglob("timing.json")]
    processes = {run["process"] for run in found}
    if len(found) != runs or len(processes) != workers:
        raise SystemExit(f"{len(found)} runs in {len(processes)} processes, not {runs} in {workers}")
    by_process = [sorted((run for run in found if run["process"] == p), key=_begin) for p in processes]
    first = fmean(_set_up_seconds(own[0]) for own in by_process)
    later = [_set_up_seconds(run) for own in by_process for run in own[1:]]
    other = fmean(later) if later else first
    busiest = max(sum(run["seconds"] for run in own) for own in by_process)
    return Cost(
        process=wall - busiest + first - other,
        run=other,
        step=fmean(run["step"] for run in found),
        measurement=fmean(run["measurement"] for run in found),
    )


def _begin(run: dict[str, Any]) -> float:
    return float(run["begin"])


def _set_up_seconds(run: dict[str, Any]) -> float:
    """Return the seconds of a run that are neither steps nor measurements."""
    return float(run["seconds"] - run["steps"] * run["step"] - run["measurements"] * run["measurement"])


def _add_up_one_process(costs: dict[int, Cost], steps: int) -> float:
    process = median(cost.process for cost in costs.values())
    return process + sum(RUNS_A_WIDTH * cost.run_seconds(steps) for cost in costs.values())


def _add_up_joblib(costs: dict[int, Cost], steps: int) -> float:
    process = median(cost.process for cost in costs.values())
    return process + sum(RUNS_A_WIDTH * cost.run_seconds(steps) for cost in costs.values()) / _CORES


def _add_up_process_a_run(costs: dict[int, Cost], steps: int) -> float:
    return sum(RUNS_A_WIDTH * (cost.process + cost.run_seconds(steps)) for cost in costs.values())


#: How the costs of a peer add up, and the ratio at which the package aims.
_PEERS: dict[str, tuple[Callable[[dict[int, Cost], int], float], float]] = {
    ONE_PROCESS: (_add_up_one_process, 10),
    JOBLIB: (_add_up_joblib, 6),
    PROCESS_A_RUN: (_add_up_process_a_run, 20),
}


def _print_costs(costs: dict[str, dict[int, Cost]], quick: bool) -> None:
    rows = []
    for name, by_width in costs.items():
        for width, cost in by_width.items():
            steps = _STEPS[width] // 4 if quick else _STEPS[width]
            seconds = [f"{cost.process:.1f}", f"{cost.run:.2f}"]
            milliseconds = [f"{1e3 * cost.step:.2f}", f"{1e3 * cost.measurement:.1f}"]
            rows.append([name, f"{width}", f"{steps}", *seconds, *milliseconds])
    print_table(
        "Times of the peers, all Lightning + Hydra, as measured",
        ["peer", "N", "steps taken", "process, s", "run, s", "step, ms", "measurement, ms"],
        rows,
        "Under joblib both workers are busy at the same width, one thread each. If a process has a single run, its "
        "first use of everything counts as part of the run.",
    )


def _print_sweep(ours: Sequence[Finished], costs: dict[str, dict[int, Cost]], steps: int) -> None:
    mine = median(finished.seconds for finished in ours)
    runs = RUNS_A_WIDTH * len(WIDTHS)
    seconds = {name: total(costs[name], steps) for name, (total, _) in _PEERS.items()}
    rows = [["nc-train, packed", "run", f"{mine:.1f}", f"{mine / runs:.2f}", "1", ""]]
    for name, (_, target) in _PEERS.items():
        value = seconds[name]
        ratio = f"{value / mine:.1f}"
        rows.append([f"Lightning + Hydra, {name}", "extrapolated", f"{value:.0f}", f"{value / runs:.1f}", ratio])
        rows[-1].append(f"{target}")
    walls = ", ".join(f"{finished.seconds:.1f}" for finished in ours)
    print_table(
        f"The reference sweep: {runs} noisy runs of {steps} steps, metrics at {POINTS} times, 2 cores",
        ["", "", "seconds", "a run", "ratio", "target"],
        rows,
        f"nc-train, from command to exit: {walls} s.",
        left=(0, 1),
    )
    for name, (_, target) in _PEERS.items():
        print_target(f"speed over {name}", seconds[name] / mine, least=target)
    peak = max(finished.peak_bytes for finished in ours) / 2**20
    console.print(f"most memory of nc-train in the reference sweep: [bold]{peak:.0f} MiB[/]")
