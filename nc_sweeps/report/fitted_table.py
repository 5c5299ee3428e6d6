"""A table for a terminal that leaves out columns where the terminal is too narrow, and never cuts a number."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

#: A width that no table reaches.
_ENDLESS = 1_000_000
#: Least number of columns with a rank beside those that can be joined.
_LEAST = 2
#: Most columns that are named where they are left out.
_NAMED = 8


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        heading: its heading; it may have several lines.
        cells: its cells, from above.
        rank: the column of the highest rank is left out first; one of rank 0 never is.
        is_text: whether its cells may be broken between words.
        name: what it is called where it is left out; empty: the heading.
    """

    heading: str
    cells: Sequence[str | Text]
    rank: int = 0
    is_text: bool = False
    name: str = ""


class FittedTable:
    """A table that fits: the columns of the highest ranks are left out and named below it, or follow in a table more.

    Args:
        columns: its columns, of equal length.
        title: a line above it; empty: none.
        notes: what is said below it.
        has_lines: whether there is a line between rows.
        joinable: how many of the first columns become one text where they leave too little room for the others.
        sections: rows before which there is a gap.
        continues: whether columns without room follow below, beside those of rank 0.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        title: str = "",
        notes: Iterable[str] = (),
        has_lines: bool = False,
        joinable: int = 0,
        sections: Collection[int] = (),
        continues: bool = False,
    ) -> None:
        self.columns = columns
        self.title = title
        self.notes = list(notes)
        self.has_lines = has_lines
        self.joinable = joinable
        self.sections = sections
        self.continues = continues

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the columns for which there is room."""
        shown = self._choose(self.columns, console, options)
        if self.joinable > 1 and sum(column.rank > 0 for column in shown) < _LEAST:
            joined = [_join(self.columns[: self.joinable]), *self.columns[self.joinable :]]
            shown = self._choose(joined, console, options)
        yield self._draw(shown)
        left_out = [column for column in self.columns if column.rank > 0 and column not in shown]
        while left_out and self.continues:
            first, *others = left_out
            kept = [column for column in self.columns if column.rank == 0]
            shown = self._choose([*kept, replace(first, rank=0), *others], console, options)
            yield self._draw(shown)
            left_out = [column for column in others if column not in shown]
        for note in [*self.notes, *([f"no room for {_list_names(left_out)}"] if left_out else [])]:
            yield Text(f"  {note}", style="dim", overflow="fold")

    def _choose(self, columns: Sequence[Column], console: Console, options: ConsoleOptions) -> list[Column]:
        endless, shown = options.update(max_width=_ENDLESS), list(columns)
        while Measurement.get(console, endless, self._draw(shown)).minimum > options.max_width:
            last = max(shown, key=lambda column: column.rank)
            if last.rank == 0:
                break
            shown.remove(last)
        return shown

    def _draw(self, columns: Sequence[Column]) -> Table:
        table = Table(
            title=self.title or None, box=box.SIMPLE_HEAD, show_lines=self.has_lines, collapse_padding=self.has_lines
        )
        for column in columns:
            justify: Literal["left", "right"] = "left" if column.is_text else "right"
            width = None if column.is_text else max(map(_measure, (column.heading, *column.cells)))
            table.add_column(column.heading, justify=justify, overflow="fold", min_width=width)
        for number, row in enumerate(zip(*(column.cells for column in columns), strict=True), 1):
            table.add_row(*row, end_section=number in self.sections)
        return table


def _list_names(columns: Sequence[Column]) -> str:
    names = [column.name or column.heading for column in columns]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _measure(cell: str | Text) -> int:
    """Return the width of the longest line of a cell."""
    text = Text.from_markup(cell) if isinstance(cell, str) else cell
    return max(line.cell_len for line in text.split(allow_blank=True))


def _join(columns: Sequence[Column]) -> Column:
    """Put columns into one of texts such as ``margin=0.1 step_size=0.5``, which is broken between words."""
    rows = zip(*(column.cells for column in columns), strict=True)
    names = [column.name or column.heading for column in columns]
    return Column(
        "", [" ".join(f"{n}={cell}" for n, cell in zip(names, row, strict=True)) for row in rows], is_text=True
    )
