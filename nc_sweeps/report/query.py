"""Questions about a sweep in SQL."""

from pathlib import Path

import polars as pl
from rich import box
from rich.table import Table
from rich.text import Text

from nc_sweeps.errors import ConfigError
from nc_sweeps.report.table import format_number
from nc_sweeps.store.sweep_folder import load_sweep

#: Most rows of an answer that a terminal shows.
MAX_ROWS = 200


def query_sweep(directory: Path, question: str) -> pl.DataFrame:
    """Answer a question about a sweep in SQL.

    Args:
        directory: folder of the sweep.
        question: a ``SELECT`` from ``measurements``, the table that :func:`nc_sweeps.load_sweep` returns, or from
            ``runs``, the last row of each run.

    Raises:
        StoreError: the folder holds no runs, or a file cannot be read.
        ConfigError: the question cannot be answered.
    """
    measurements = load_sweep(directory)
    runs = measurements.group_by("signature", maintain_order=True).last()
    try:
        return pl.SQLContext(runs=runs, measurements=measurements).execute(question, eager=True)
    except pl.exceptions.PolarsError as error:
        problem = str(error).splitlines()[0].split("; valid columns")[0]
        raise ConfigError(
            f'query: {problem} (tables: runs, measurements; names as in "nc1/train" in double quotes)'
        ) from error


def tabulate_answer(answer: pl.DataFrame) -> Table:
    """Return the first rows of an answer as a table for a terminal."""
    more = f"… and {answer.height - MAX_ROWS} more rows" if answer.height > MAX_ROWS else None
    table = Table(box=box.SIMPLE_HEAD, caption=more)
    for name, kind in answer.schema.items():
        table.add_column(name, justify="right" if kind.is_numeric() else "left", overflow="fold")
    for row in answer.head(MAX_ROWS).iter_rows():
        table.add_row(
            *(format_number(cell) if isinstance(cell, float) or cell is None else Text(str(cell)) for cell in row)
        )
    return table
