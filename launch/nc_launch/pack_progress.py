"""The progress of a pack, in the file ``pack-<k>.json`` of its submission."""

import json
import os
import platform
import time
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Self

from nc_sweeps.store import files

#: Seconds between two writings while training advances.
_INTERVAL = 1.0


@dataclass(frozen=True)
class PackProgress:
    """The progress of a pack.

    Args:
        state: ``waiting`` (no process has taken the pack), ``starting``, ``running``, ``interrupted`` or ``done``.
        runs: runs that have begun.
        finished: runs that have ended.
        work: work done so far, in a unit of its own.
        total: work of the runs that have begun, in the same unit.
        metrics: lowest and highest of the latest values of each metric, over the live runs.
        since: time at which the process took the pack, in seconds since the epoch.
        node: name of the machine that the process is on.
        gpus: GPUs that the process sees, as in ``CUDA_VISIBLE_DEVICES``.
    """

    state: str = "waiting"
    runs: int = 0
    finished: int = 0
    work: int = 0
    total: int = 0
    metrics: dict[str, list[float]] = field(default_factory=dict)
    since: float = 0.0
    node: str = ""
    gpus: str = ""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a ``pack-<k>.json``; a pack without one is waiting.

        Raises:
            StoreError: the file cannot be read.
        """
        if not path.exists():
            return cls()
        content = files.read_json(path, {"state"})
        return cls(**{own.name: content[own.name] for own in fields(cls) if own.name in content})

    @property
    def has_begun(self) -> bool:
        """Whether a process has taken the pack."""
        return self.state != "waiting"

    @property
    def is_at_work(self) -> bool:
        """Whether a process that has taken the pack has not left it."""
        return self.state in {"starting", "running"}


class ProgressWriter:
    """A listener that writes the progress of a pack to its file.

    Args:
        path: path of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        node = os.environ.get("SLURMD_NODENAME", platform.node())
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        self.progress = PackProgress("starting", since=time.time(), node=node, gpus=gpus)
        self._next = 0.0
        self._write()

    def begin(self, runs: int, work: int) -> None:
        """Count runs that begin, and the work ahead of them; see :class:`nc_sweeps.training.listener.Listener`."""
        now = self.progress
        self.progress = replace(now, state="running", runs=now.finished + runs, total=now.work + work)
        self._write()

    def advance(self, work: int, metrics: dict[str, list[float]]) -> None:
        """Count work that was done, and keep the latest metrics; see :class:`nc_sweeps.training.listener.Listener`."""
        self.progress = replace(self.progress, work=self.progress.work + work)
        if time.monotonic() >= self._next:
            finite = {name: [x for x in values if abs(x) < float("inf")] for name, values in metrics.items()}
            self.progress = replace(
                self.progress, metrics={name: [min(values), max(values)] for name, values in finite.items() if values}
            )
            self._write()

    def finish_runs(self, runs: int) -> None:
        """Count runs that ended; see :class:`nc_sweeps.training.listener.Listener`."""
        self.progress = replace(self.progress, finished=self.progress.finished + runs)
        self._write()

    def close(self, state: str) -> None:
        """Record the state in which the process leaves the pack."""
        self.progress = replace(self.progress, state=state)
        self._write()

    def _write(self) -> None:
        files.write(self.path, json.dumps(asdict(self.progress)).encode())
        self._next = time.monotonic() + _INTERVAL
