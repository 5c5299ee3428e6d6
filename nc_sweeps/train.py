"""``nc-train``: the Hydra entry point.

Slow libraries are imported where they are used: ``--help``, ``--cfg job``, completion and configuration errors answer
without waiting for torch.
"""

import os
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nc_sweeps.config import explain, parse, signature
from nc_sweeps.errors import UserError
from nc_sweeps.pack import Job, train_pack
from nc_sweeps.training.crew import leads


def _overrides(config: DictConfig) -> list[str]:
    return list(OmegaConf.select(config, "hydra.overrides.task", default=[]))


def _signature(*, _root_: DictConfig) -> str:
    """Resolver ``${signature:}``: the name of a run's directory."""
    return signature(parse(_root_, _overrides(_root_)))


OmegaConf.register_new_resolver("signature", _signature, replace=True)
OmegaConf.register_new_resolver("inverse", lambda value: 1.0 / value if value else value, replace=True)


def train_jobs(configs: Sequence[DictConfig], max_runs_per_ensemble: int | None = None) -> list[float]:
    """Train the runs of several composed Hydra configs in this process, those of equal shape as one ensemble.

    Args:
        configs: with their ``hydra`` node, whose ``runtime.output_dir`` is set.
        max_runs_per_ensemble: largest ensemble; None: no limit.

    Returns:
        Last value of each run's ``optimized_metric``.
    """
    jobs = [
        Job(parse(config, _overrides(config)), _overrides(config), Path(config.hydra.runtime.output_dir))
        for config in configs
    ]
    return train_pack(jobs, max_runs_per_ensemble)


def train(config: DictConfig) -> float:
    """Train one run: the task that Hydra calls."""
    hydra_config = HydraConfig.get()
    overrides = list(hydra_config.overrides.task)
    job = Job(parse(config, overrides), overrides, Path(hydra_config.runtime.output_dir))
    try:
        return train_pack([job])[0]
    except Exception as error:
        _remove_if_empty(job.directory)
        if hydra_config.mode == RunMode.RUN and _is_for_the_user(error):
            # Hydra would put a line of its own before the error of a task.
            raise SystemExit(_line(error)) from error
        raise


# A launcher that can execute many jobs in one process finds the way to do so here.
train.many = train_jobs  # type: ignore[attr-defined]


def _remove_if_empty(directory: Path) -> None:
    """Take back the folder that Hydra made for a run that could not begin."""
    for folder in (directory, *directory.parents[:2]):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


class SweepCallback(Callback):
    """Keeps the sweep's manifest and prints the table at the end."""

    def __init__(self) -> None:
        self.directories: list[Path] = []

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Remember which runs this command asked for."""
        directory = Path(config.hydra.runtime.output_dir)
        if leads(config.compute.devices * config.compute.nodes) and (directory / "summary.json").exists():
            self.directories.append(directory)

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Close a single run."""
        self._close_or_exit(config, {"overrides": _overrides(config)})

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Close a sweep."""
        sweep = OmegaConf.to_container(config.hydra.sweeper.get("params") or OmegaConf.create({}))
        self._close_or_exit(config, {"overrides": _overrides(config), "sweep": sweep})

    def _close_or_exit(self, config: DictConfig, invocation: dict[str, Any]) -> None:
        # Hydra turns the exceptions of callbacks into warnings; only this one gets through.
        try:
            diverged = self._close(config, invocation)
        except Exception as error:
            if not _is_for_the_user(error):
                traceback.print_exc()
            raise SystemExit(_line(error)) from error
        if diverged:
            raise SystemExit(1)

    def _close(self, config: DictConfig, invocation: dict[str, Any]) -> bool:
        """Write the manifest, show the results and return whether any run diverged."""
        if not self.directories:
            return False
        from rich.console import Console

        from nc_sweeps.report.table import sweep_table
        from nc_sweeps.tracking.store import load_runs, read_summary, write_manifest

        sweep = self.directories[0].parent
        write_manifest(sweep, invocation)
        table = load_runs(self.directories)
        Console().print(sweep_table(table))
        summaries = {directory: read_summary(directory) for directory in self.directories}
        diverged = {directory: s["reason"] for directory, s in summaries.items() if s["status"] == "diverged"}
        for directory, reason in diverged.items():
            print(f"diverged: {_shown(directory)}: {reason}")
        if len(summaries) > 1:
            from nc_sweeps.report.figures import sweep_figure

            sweep_figure(table, config.figure.x, list(config.figure.y)).save(sweep / "figure.svg")
            print(f"picture: {_shown(sweep / 'figure.svg')}")
        print(f"results: {_shown(sweep if len(summaries) > 1 else self.directories[0])}")
        return bool(diverged)


def _shown(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


_app = hydra.main(version_base="1.3", config_path="pkg://nc_sweeps.conf", config_name="config")(train)


def main() -> None:
    """Run ``nc-train``; every error that a user can mend is one line on stderr and exit code 1."""
    wants_trace = os.environ.get("HYDRA_FULL_ERROR") == "1"
    # With this set Hydra raises errors instead of printing them, so that they can be told in one line.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        _app()
    except KeyboardInterrupt:
        raise SystemExit("nc-train: interrupted") from None
    except Exception as error:
        if wants_trace or not _is_for_the_user(error):
            raise
        raise SystemExit(_line(error)) from None


def _is_for_the_user(error: Exception) -> bool:
    """Whether the user can mend it; anything else is a defect of this program and keeps its traceback."""
    # Hydra refuses some overrides, as ``width=5``, with a bare ValueError.
    origin = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    refused = isinstance(error, ValueError) and origin.is_relative_to(Path(hydra.__file__).parent)
    mendable = isinstance(error, UserError | HydraException | OmegaConfBaseException | OSError)
    return mendable or refused or _is_out_of_memory(error)


def _is_out_of_memory(error: Exception) -> bool:
    # torch raises a bare RuntimeError for main memory and a subclass of it for a GPU's.
    told = str(error).lower()
    allocation = "can't allocate memory" in told or "out of memory" in told
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and allocation)


def _line(error: Exception) -> str:
    if _is_out_of_memory(error):
        return "nc-train: out of memory; take fewer particles, features, dimensions or samples a class"
    if isinstance(error, OSError) and error.filename:
        reason = f"{error.strerror}; set output_dir to a folder that can be written"
        return f"nc-train: {error.filename}: {reason}"
    return f"nc-train: {explain(error)}"
