"""``nc-train``: trains one run, or as many as Hydra asks for.

Libraries are imported where they are used: ``--help``, ``--cfg job``, completion and configuration errors answer
without waiting for torch, and a Ctrl-C while Hydra is imported is answered as at any other time.
"""

import os
import sys
from typing import TYPE_CHECKING

from nc_sweeps.command import (
    PassThroughHydra,
    concerns_results,
    describe_error,
    let_hydra_raise_errors,
    show_errors_in_one_line,
    show_version,
)
from nc_sweeps.errors import explain_error
from nc_sweeps.process import prepare_command

if TYPE_CHECKING:
    from pathlib import Path

    from omegaconf import DictConfig

    from nc_sweeps.run_spec import RunSpec


def train(config: "DictConfig") -> float:
    """Train one run: the task that Hydra calls."""
    from pathlib import Path

    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from nc_sweeps.config import parse
    from nc_sweeps.resolvers import find_config_folders
    from nc_sweeps.run_spec import RunSpec
    from nc_sweeps.store.run_folder import RunFolder
    from nc_sweeps.training.processes import is_leader

    hydra_config = HydraConfig.get()
    os.chdir(hydra_config.runtime.cwd)  # paths are relative to where they were typed, with hydra.job.chdir=true too
    overrides = list(hydra_config.overrides.task)
    spec = RunSpec(parse(config, overrides), overrides, Path(hydra_config.runtime.output_dir))
    leads = is_leader(spec.config.compute.processes)
    run = RunFolder(spec.directory)
    is_new = not run.is_begun
    try:
        return _train(spec, leads)
    except Exception as error:
        _remove_if_empty(spec.directory)
        if hydra_config.mode == RunMode.RUN:
            # Hydra would put a line of its own before the error of a task.
            raise PassThroughHydra from error
        raise
    finally:
        if is_new and leads and run.is_begun:
            _note_in_manifest(spec, find_config_folders(hydra_config))


# The launchers of this project ask a task for this: one that has it trains a run of this project, which they put into a
# pack instead of calling the task.
train.is_packable = True  # type: ignore[attr-defined]


def _train(spec: "RunSpec", leads: bool) -> float:
    from rich.console import Console

    from nc_sweeps.pack import Pack
    from nc_sweeps.publish.companion import publish_meanwhile
    from nc_sweeps.report.progress import ProgressBar

    with publish_meanwhile([spec] if leads else []), ProgressBar(Console(stderr=True)) as progress:
        return Pack([spec]).train(progress)[0]


def _note_in_manifest(spec: "RunSpec", config_folders: list[str]) -> None:
    from nc_sweeps.store import manifest
    from nc_sweeps.store.environment import describe_environment

    invocation = {"overrides": spec.overrides, "config_folders": config_folders}
    manifest.write(spec.directory.parent, [spec], invocation, describe_environment())


def _remove_if_empty(directory: "Path") -> None:
    """Take back the folder that Hydra made for a run that could not begin."""
    for folder in (directory, *directory.parents[:2]):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _describe(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename and concerns_results(error):
        return f"{explain_error(error)}; set output_dir to a folder that can be written"
    return describe_error(error)


def main() -> None:
    """Run ``nc-train``."""
    with show_errors_in_one_line("nc-train", _describe), let_hydra_raise_errors():
        prepare_command()
        if "--version" in sys.argv[1:]:
            show_version()
        import hydra

        from nc_sweeps.composition import VERSION_BASE, WHITELIST
        from nc_sweeps.pack import skip_garbage_collection_at_exit
        from nc_sweeps.resolvers import register_resolvers

        skip_garbage_collection_at_exit()
        register_resolvers()
        hydra.main(config_path="pkg://nc_sweeps.conf", config_name="config", **VERSION_BASE, **WHITELIST)(train)()
