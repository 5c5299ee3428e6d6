"""The callback of Hydra that shows the results of ``nc-train`` when its runs have come to an end."""

from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from nc_sweeps.command import PassThroughHydra
from nc_sweeps.requests import check_request
from nc_sweeps.store.run_folder import RunFolder
from nc_sweeps.store.taking_back import take_back_at_exit
from nc_sweeps.training.processes import is_leader


class SweepCallback(Callback):
    """Collects the runs that a command asks for, and shows their results at its end."""

    def __init__(self) -> None:
        self.runs: list[RunFolder] = []

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a single run of which a part would have no effect."""
        self._check_request(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a sweep of which a part would have no effect; take its files back if it trains nothing."""
        self._check_request(config)
        take_back_at_exit(Path(config.hydra.sweep.dir))

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Remember the folder of a run."""
        run = RunFolder(Path(config.hydra.runtime.output_dir))
        if is_leader(config.compute.devices * config.compute.nodes) and run.is_begun:
            self.runs.append(run)

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Show the results of a single run."""
        self._show_results(config)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Show the results of a sweep."""
        self._show_results(config)

    def _check_request(self, config: DictConfig) -> None:
        try:
            check_request(config)
        except Exception as error:
            # Hydra turns the exceptions of callbacks into warnings.
            raise PassThroughHydra from error

    def _show_results(self, config: DictConfig) -> None:
        if not self.runs:
            return
        from nc_sweeps.publish.published import describe_published
        from nc_sweeps.report.results import show_results

        try:
            notes = describe_published(self.runs)
            is_all_well = show_results(self.runs, config.figure.x, list(config.figure.y), notes)
        except Exception as error:
            raise PassThroughHydra from error
        if not is_all_well:
            raise SystemExit(1)
