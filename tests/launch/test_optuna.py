"""Sweeps whose points Hydra's Optuna sweeper chooses, batch after batch."""

import shlex

from omegaconf import OmegaConf

import nc_sweeps
from nc_sweeps.report.digest import digest_sweep
from tests.configs import TINY


def test_trials_are_packed_and_a_diverged_one_is_the_worst(run_command, tmp_path):
    settings = ("n_trials=16", "n_jobs=8", "direction=minimize", "sampler.seed=1")
    done = run_command(
        "-m", "hydra/launcher=packed", "hydra/sweeper=optuna", *(f"hydra.sweeper.{setting}" for setting in settings),
        *TINY, "model.activation=relu", "model.gamma=interval(0.5, 2.0)", "dynamics.step_size=choice(0.1, 1e6)",
    )  # fmt: skip
    assert done.returncode == 1  # some diverge
    assert "Traceback" not in done.stderr
    sweep = tmp_path / "results" / "sweep"
    table = nc_sweeps.load_sweep(sweep).group_by("signature").last()
    assert table.height == 16
    assert set(table["status"]) == {"completed", "diverged"}
    (command,) = digest_sweep(sweep).commands
    assert shlex.split(command)[:2] + shlex.split(command)[-2:] == [
        "nc-train", "-m", "model.gamma=interval(0.5, 2.0)", "dynamics.step_size=choice(0.1, 1e6)",
    ]  # fmt: skip
    assert {"hydra/sweeper=optuna", *(f"hydra.sweeper.{setting}" for setting in settings)} <= {*shlex.split(command)}
    best = OmegaConf.load(sweep / "optimization_results.yaml")
    completed = table.filter(status="completed")
    assert best.best_value == completed["nc1/test"].min()
    assert best.best_params["dynamics.step_size"] == 0.1
