"""The specification of a run: what was asked for."""

from dataclasses import dataclass
from pathlib import Path

from nc_sweeps.config import RunConfig


@dataclass(frozen=True)
class RunSpec:
    """A run as it was asked for, from the command that names it to the process that trains it.

    Args:
        config: the configuration of the run.
        overrides: what the user typed for it.
        directory: the run folder.
    """

    config: RunConfig
    overrides: list[str]
    directory: Path
