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
from nc_sweeps.errors import UserError, is_out_of_memory, reason
from nc_sweeps.pack import Pack
from nc_sweeps.run_spec import RunSpec
from nc_sweeps.training.processes import is_leader


def _overrides(config: DictConfig) -> list[str]:
    return list(OmegaConf.select(config, "hydra.overrides.task", default=[]))


def _signature(*, _root_: DictConfig) -> str:
    """Resolver ``${signature:}``: the name of a run's directory."""
    return signature(parse(_root_, _overrides(_root_)))


def _features_classes(path: str) -> int:
    """Resolver ``${features_classes:path}``: number of classes in a file of features."""
    from nc_sweeps.data.features import classes_of

    return classes_of(path)


def _features_digest(path: str) -> str:
    """Resolver ``${features_digest:path}``: SHA-256 of a file of features."""
    from nc_sweeps.data.features import digest_of

    return digest_of(path)


OmegaConf.register_new_resolver("features_classes", _features_classes, replace=True)
OmegaConf.register_new_resolver("features_digest", _features_digest, replace=True)
OmegaConf.register_new_resolver("signature", _signature, replace=True)
OmegaConf.register_new_resolver("inverse", lambda value: 1.0 / value if value else value, replace=True)


def train(config: DictConfig) -> float:
    """Train one run: the task that Hydra calls."""
    hydra_config = HydraConfig.get()
    overrides = list(hydra_config.overrides.task)
    job = RunSpec(parse(config, overrides), overrides, Path(hydra_config.runtime.output_dir))
    from rich.console import Console

    from nc_sweeps.publish.companion import following
    from nc_sweeps.report.progress import ProgressBar

    leading = is_leader(job.config.compute.processes)
    is_new = not (job.directory / "summary.json").exists()
    try:
        with following([job] if leading else []), ProgressBar(Console(stderr=True)) as progress:
            return Pack([job]).train(progress)[0]
    except Exception as error:
        _remove_if_empty(job.directory)
        if hydra_config.mode == RunMode.RUN and _is_for_the_user(error):
            # Hydra would put a line of its own before the error of a task.
            raise SystemExit(_line(error)) from error
        raise
    finally:
        if is_new and leading and (job.directory / "summary.json").exists():
            _record(job)


def _record(job: RunSpec) -> None:
    from nc_sweeps.store import manifest
    from nc_sweeps.store.runs import environment

    manifest.write(job.directory.parent, [job], {"overrides": job.overrides}, environment())


# Tells the launchers of this project that its jobs are runs, which can be packed.
train.is_packable = True  # type: ignore[attr-defined]


def _remove_if_empty(directory: Path) -> None:
    """Take back the folder that Hydra made for a run that could not begin."""
    for folder in (directory, *directory.parents[:2]):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


class SweepCallback(Callback):
    """Shows the results at the end."""

    def __init__(self) -> None:
        self.directories: list[Path] = []

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Remember which runs this command asked for."""
        directory = Path(config.hydra.runtime.output_dir)
        if is_leader(config.compute.devices * config.compute.nodes) and (directory / "summary.json").exists():
            self.directories.append(directory)

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Close a single run."""
        self._close_or_exit(config)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Close a sweep."""
        self._close_or_exit(config)

    def _close_or_exit(self, config: DictConfig) -> None:
        # Hydra turns the exceptions of callbacks into warnings; only this one gets through.
        try:
            all_well = not self.directories or show_results(self.directories, config.figure.x, list(config.figure.y))
        except Exception as error:
            if not _is_for_the_user(error):
                traceback.print_exc()
            raise SystemExit(_line(error)) from error
        if not all_well:
            raise SystemExit(1)


def show_results(directories: Sequence[Path], x: str, y: Sequence[str]) -> bool:
    """Print the table of a sweep, what went wrong, and where things lie; draw its picture and write its report.

    Args:
        directories: of its runs, at least one.
        x, y: of the picture, as in ``figure``.

    Returns:
        Whether no run diverged or failed.
    """
    from rich.console import Console

    from nc_sweeps.publish import published
    from nc_sweeps.report.table import tabulate_sweep
    from nc_sweeps.store.runs import is_measured, load_runs, read_summary

    sweep = directories[0].parent
    measured = [directory for directory in directories if is_measured(directory)]
    if measured:
        table = load_runs(measured)
        Console().print(tabulate_sweep(table))
    bad = [(run, s) for run in directories if (s := read_summary(run))["status"] in {"diverged", "failed"}]
    for run, summary in bad:
        log = f" (log: {_shown(Path(summary['log']))})" if summary.get("log") else ""
        print(f"{summary['status']}: {_shown(run)}: {summary['reason']}{log}")
    if len(measured) > 1:
        from nc_sweeps.report.figures import draw_sweep

        draw_sweep(table, x, list(y)).save(sweep / "figure.svg")
        print(f"picture: {_shown(sweep / 'figure.svg')}")
    if len(directories) > 1:
        from nc_sweeps.report.digest import digest_sweep
        from nc_sweeps.report.page import write_report

        print(f"report: {_shown(write_report(digest_sweep(sweep)))}")
    for line in published.told(directories):
        print(line)
    print(f"results: {_shown(sweep if len(directories) > 1 else directories[0])}")
    return not bad


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
    return mendable or refused or is_out_of_memory(error)


def _line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        advice = "; set output_dir to a folder that can be written" if _concerns_results(error) else ""
        return f"nc-train: {reason(error)}{advice}"
    return f"nc-train: {reason(error) if is_out_of_memory(error) else explain(error)}"


def _concerns_results(error: OSError) -> bool:
    """Whether it arose where results are written: Hydra makes their folders, and two packages fill them."""
    here, hydras = Path(__file__).parent, Path(hydra.__file__).parent
    frames = (Path(frame.filename) for frame in reversed(traceback.extract_tb(error.__traceback__)))
    origin = next((frame for frame in frames if frame.is_relative_to(here) or frame.is_relative_to(hydras)), here)
    return any(origin.is_relative_to(folder) for folder in (hydras, here / "store", here / "publish", here / "report"))
