"""A run that was asked for."""

from dataclasses import dataclass
from pathlib import Path

from nc_sweeps.config import RunConfig


@dataclass(frozen=True)
class RunSpec:
    """One point of a sweep, from the command that names it to the process that trains it.

    Args:
        config: what to run.
        overrides: what the user typed for it.
        directory: where its numbers go.
    """

    config: RunConfig
    overrides: list[str]
    directory: Path
