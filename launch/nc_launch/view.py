"""What one sees of a submission while it goes on."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import TaskID

from nc_sweeps.report.progress import make_progress_bar

#: Packs that have a line of their own at once.
_LINES = 16
#: Without a terminal a line is written whenever so much more of the runs has come to an end.
_PART = 0.1


class SweepView:
    """All runs in a bar, and each pack that is at work in another; without a terminal a line now and then.

    Args:
        console: where it is shown.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = make_progress_bar(console)
        self._all = self._bar.add_task("", total=None, shown="")
        self._packs: dict[int, TaskID] = {}
        self._told = 0.0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, reports: Sequence[dict[str, Any]], runs: int) -> None:
        """Show the present state.

        Args:
            reports: of all packs, see :class:`nc_launch.worker.Report`; empty: not begun.
            runs: in all of them.
        """
        work, total = (sum(report.get(key, 0) for report in reports) for key in ("work", "total"))
        finished = sum(report.get("finished", 0) for report in reports)
        description, shown = f"{finished}/{runs} runs", _nc1(reports)
        self._bar.update(self._all, completed=work, total=total or None, description=description, shown=shown)
        if not self._console.is_terminal:
            if finished >= self._told + max(1, _PART * runs):
                self._told = finished
                self._console.print(f"{description}: {shown}", highlight=False)
            return
        at_work = [number for number, report in enumerate(reports) if report.get("state") in {"starting", "running"}]
        for number in self._packs.keys() - set(at_work[:_LINES]):
            self._bar.remove_task(self._packs.pop(number))
        for number in at_work[:_LINES]:
            report = reports[number]
            if number not in self._packs:
                self._packs[number] = self._bar.add_task("", total=None, shown="")
            self._bar.update(
                self._packs[number],
                completed=report["work"],
                total=report["total"] or None,
                description=f"[dim]{report['finished']}/{report['runs']} pack {number} on {_place(report)}[/dim]",
                shown=_nc1([report]),
            )


def _nc1(reports: Sequence[dict[str, Any]]) -> str:
    ranges = [report["metrics"]["nc1/train"] for report in reports if "nc1/train" in report.get("metrics", {})]
    return f"NC1 {min(low for low, _ in ranges):.2g} … {max(high for _, high in ranges):.2g}" if ranges else ""


def _place(report: dict[str, Any]) -> str:
    return f"{report['node']}:{report['gpus']}" if report["gpus"] else str(report["node"])
