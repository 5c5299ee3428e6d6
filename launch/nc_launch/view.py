"""The view of a submission in a terminal while it goes on."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import TaskID

from nc_launch.pack_progress import PackProgress
from nc_sweeps.report.progress import make_progress_bar

#: Largest number of packs that are shown at once.
_LINES = 16
#: Share of the runs that end between two lines where there is no terminal.
_SHARE = 0.1


class SweepView:
    """Shows a bar for all runs and one for each pack at work; without a terminal, a line now and then.

    Args:
        console: where the view is shown.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = make_progress_bar(console)
        self._all = self._bar.add_task("", total=None, shown="")
        self._packs: dict[int, TaskID] = {}
        self._printed = 0.0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, packs: Sequence[PackProgress], runs: int) -> None:
        """Show the present state.

        Args:
            packs: progress of each pack.
            runs: number of runs in all packs.
        """
        work, total = sum(pack.work for pack in packs), sum(pack.total for pack in packs)
        finished = sum(pack.finished for pack in packs)
        description, nc1 = f"{finished}/{runs} runs", _format_nc1(packs)
        self._bar.update(self._all, completed=work, total=total or None, description=description, shown=nc1)
        if self._console.is_terminal:
            self._show_packs(packs)
        elif finished >= self._printed + max(1, _SHARE * runs):
            self._printed = finished
            self._console.print(": ".join(filter(None, (description, nc1))), highlight=False)

    def _show_packs(self, packs: Sequence[PackProgress]) -> None:
        shown = [number for number, pack in enumerate(packs) if pack.is_at_work][:_LINES]
        for number in self._packs.keys() - set(shown):
            self._bar.remove_task(self._packs.pop(number))
        for number in shown:
            pack = packs[number]
            if number not in self._packs:
                self._packs[number] = self._bar.add_task("", total=None, shown="")
            device = f"{pack.node}:{pack.gpus}" if pack.gpus else pack.node
            self._bar.update(
                self._packs[number],
                completed=pack.work,
                total=pack.total or None,
                description=f"[dim]{pack.finished}/{pack.runs} pack {number} on {device}[/dim]",
                shown=_format_nc1([pack]),
            )


def _format_nc1(packs: Sequence[PackProgress]) -> str:
    """Return the range of NC1 over the runs of packs; empty before a measurement."""
    ranges = [pack.metrics["nc1/train"] for pack in packs if "nc1/train" in pack.metrics]
    return f"NC1 {min(low for low, _ in ranges):.2g} … {max(high for _, high in ranges):.2g}" if ranges else ""
