"""The summary of a run: how it stands and where each metric was first, last and at its best."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from nc_sweeps.store.files import read_json, write

#: Statuses of runs that are trained to their end.
FINAL = ("completed", "diverged")
#: Statuses of runs that nobody need go on with.
CLOSED = (*FINAL, "failed")


@dataclass(frozen=True)
class Progress:
    """The progress of a run; values that are not known yet are None.

    Args:
        steps: number of steps from the beginning to the end.
        step: steps that are done, at the last measurement.
        time: training time of the flow at that measurement.
        epoch: epochs at that measurement.
        seconds: seconds of training up to that measurement.
    """

    steps: int | None = None
    step: int | None = None
    time: float | None = None
    epoch: float | None = None
    seconds: float | None = None

    @property
    def share(self) -> float | None:
        """Share of the steps that are done; None: nobody knows how many there are."""
        return (self.step or 0) / self.steps if self.steps else None


class MetricSummary(NamedTuple):
    """The values of one metric of a run; one that is undefined or not finite is None.

    Args:
        first: value at the first measurement.
        last: value at the last measurement.
        best: smallest or largest of the values.
        best_step: step at which it was measured.
        undefined: why some values are undefined; None: all are finite.
    """

    first: float | None
    last: float | None
    best: float | None
    best_step: int | None
    undefined: str | None = None


class _StoredMetrics(Mapping[str, MetricSummary]):
    """Metrics of a file, each parsed when it is asked for: the states of thousands of runs need one of sixty."""

    def __init__(self, entries: dict[str, dict[str, Any]]) -> None:
        self._entries = entries

    def __getitem__(self, metric: str) -> MetricSummary:
        return MetricSummary(**self._entries[metric])

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


@dataclass(frozen=True)
class Summary:
    """The content of ``summary.json``: how a run stands, and what became of its metrics.

    Args:
        signature: signature of the configuration.
        status: ``running``, ``completed``, ``diverged`` or ``failed``.
        reason: why it diverged or failed.
        log: file with more about the run; None: the user's terminal.
        started: time at which it was begun, ISO 8601.
        updated: time of this summary, ISO 8601; empty in folders of early versions.
        progress: how far it is.
        metrics: what became of each metric, in the order of the catalogue.
        environment: versions, commit and host; empty in folders of early versions.
    """

    signature: str
    status: str
    reason: str
    log: str | None
    started: str
    updated: str
    progress: Progress
    metrics: Mapping[str, MetricSummary]
    environment: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Summary":
        """Read a summary.

        Raises:
            StoreError: the file cannot be read, or lacks something.
        """
        content = read_json(path, {"signature", "status", "reason", "started", "metrics"})
        return cls(
            signature=content["signature"],
            status=content["status"],
            reason=content["reason"],
            log=content.get("log"),
            started=content["started"],
            updated=content.get("updated", ""),
            progress=Progress(**content.get("progress", {})),
            metrics=_StoredMetrics(content["metrics"]),
            environment=content.get("environment", {}),
        )

    def write(self, path: Path) -> None:
        """Replace the file of a summary."""
        write(path, orjson.dumps(self.as_dict(), option=orjson.OPT_INDENT_2))

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as the file holds it."""
        metrics = {name: entry._asdict() for name, entry in self.metrics.items()}
        for entry in metrics.values():
            if entry["undefined"] is None:
                del entry["undefined"]
        return vars(self) | {"progress": vars(self.progress), "metrics": metrics}

    def last(self, metric: str) -> float | None:
        """Return the last value of a metric; None: it is undefined, or was not measured."""
        entry = self.metrics.get(metric)
        return None if entry is None else entry.last
