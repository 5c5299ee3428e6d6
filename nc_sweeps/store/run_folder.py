"""The folder of one run: which files it holds, and how each is read; docs/architecture.md lists them."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nc_sweeps.config import add_later_keys
from nc_sweeps.errors import StoreError
from nc_sweeps.metrics.catalogue import CLOCKS, METRICS
from nc_sweeps.store import files
from nc_sweeps.store.summary import Summary

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, for readers.

    Args:
        path: path of the folder, which need not exist.
    """

    path: Path

    @property
    def name(self) -> str:
        """Name of the folder within the sweep."""
        return self.path.name

    @property
    def sweep(self) -> Path:
        """Path of the sweep's folder."""
        return self.path.parent

    @property
    def summary_path(self) -> Path:
        """File with the status of the run and a summary of its metrics."""
        return self.path / "summary.json"

    @property
    def config_path(self) -> Path:
        """File with the whole configuration."""
        return self.path / "config.yaml"

    @property
    def overrides_path(self) -> Path:
        """File with what the user typed."""
        return self.path / "overrides.yaml"

    @property
    def metrics_path(self) -> Path:
        """File with the measurements."""
        return self.path / "metrics.parquet"

    @property
    def checkpoint_path(self) -> Path:
        """File with the state from which the run goes on."""
        return self.path / "checkpoint.safetensors"

    @property
    def is_begun(self) -> bool:
        """Whether the run was begun: its folder has a summary."""
        return self.summary_path.exists()

    @property
    def is_measured(self) -> bool:
        """Whether the run has measurements; one that failed before it began has none."""
        return self.metrics_path.exists()

    def read_summary(self) -> Summary:
        """Read how the run stands.

        Raises:
            StoreError: the summary cannot be read.
        """
        return Summary.read(self.summary_path)

    def read_config(self) -> dict[str, Any]:
        """Read the configuration, every key by its dotted name, also those that came later; lists as JSON.

        Raises:
            StoreError: it cannot be read.
        """
        return add_later_keys(flatten(self.read_config_tree()))

    def read_config_tree(self) -> dict[str, Any]:
        """Read the configuration, its groups as dictionaries.

        Raises:
            StoreError: it cannot be read.
        """
        return files.read_yaml(self.config_path)  # type: ignore[no-any-return]

    def read_overrides(self) -> list[str]:
        """Read what the user typed for the run.

        Raises:
            StoreError: it cannot be read.
        """
        return files.read_yaml(self.overrides_path)  # type: ignore[no-any-return]

    def read_metrics(self) -> "pl.DataFrame":
        """Read all measurements, one row each.

        Raises:
            StoreError: there is no readable ``metrics.parquet``.
        """
        import polars as pl

        try:
            table = pl.read_parquet(self.metrics_path, glob=False)
            return table.select(*CLOCKS, pl.exclude(*CLOCKS))
        except (OSError, pl.exceptions.PolarsError) as error:
            raise StoreError(f"{self.metrics_path}: cannot be read ({str(error).splitlines()[0]})") from error

    def last_value(self, metric: str) -> float:
        """Return the last value of a metric; the worst there is, ∞ or −∞, where it is undefined and for a run that did
        not complete: sweepers that look for the best one do not take NaN.

        Raises:
            StoreError: the summary cannot be read.
        """
        summary = self.read_summary()
        value = summary.last(metric)
        if value is None or summary.status != "completed":
            return math.inf if METRICS[metric].best == "min" else -math.inf
        return float(value)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return every key of a nested configuration by its dotted name, after a prefix; lists as JSON."""
    if isinstance(config, dict):
        return {k: v for name, value in config.items() for k, v in flatten(value, f"{prefix}{name}.").items()}
    return {prefix.rstrip("."): json.dumps(config) if isinstance(config, list) else config}
