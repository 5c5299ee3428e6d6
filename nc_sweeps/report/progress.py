"""Progress of training in a terminal."""

import math
from statistics import median
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from nc_sweeps.metrics.catalogue import METRICS

_SHOWN = ("loss/train", "nc1/train", "certificate/nc1_bound")


def make_progress_bar(console: Console) -> Progress:
    """Make progress bars with the time left and a field ``shown`` for metrics; they are silent without a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[shown]}"),
        console=console,
        disable=not console.is_terminal,
        expand=True,
    )


class ProgressBar:
    """A listener that shows the time left and the medians of loss, NC1 and its bound; without a terminal in lines.

    Args:
        console: where progress is shown.
    """

    def __init__(self, console: Console) -> None:
        self.runs = self.finished_runs = 0
        self.latest = ""
        self.console = console
        self.progress = make_progress_bar(console)
        self.task = self.progress.add_task("preparing", total=None, shown="")

    def __enter__(self) -> "ProgressBar":
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Where nothing was trained, as all was done already, nothing remains.
        self.progress.live.transient = not self.runs
        self.progress.stop()

    def begin(self, runs: int, work: int) -> None:
        """Add runs and their work to what is to be done."""
        self.runs = self.finished_runs + runs
        done = self.progress.tasks[0].completed
        self.progress.update(self.task, total=done + work, description=self._describe())

    def advance(self, work: int, metrics: dict[str, list[float]]) -> None:
        """Move the bar on by the work done and show the medians of the latest metrics."""
        shown = []
        for name in _SHOWN:
            values = [value for value in metrics.get(name, []) if math.isfinite(value)]
            if values:
                shown.append(f"{METRICS[name].heading} {median(values):.2g}")
        self.latest = "  ".join(shown)
        self.progress.update(self.task, advance=work, shown=self.latest)

    def finish_runs(self, runs: int) -> None:
        """Count runs that have ended; without a terminal, print a line."""
        self.finished_runs += runs
        self.progress.update(self.task, description=self._describe())
        if not self.console.is_terminal:
            self.console.print(": ".join(filter(None, [f"{self._describe()} trained", self.latest])), highlight=False)

    def _describe(self) -> str:
        return f"{self.finished_runs}/{self.runs} runs"
