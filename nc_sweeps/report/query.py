"""Questions about a sweep in SQL."""

from pathlib import Path

import polars as pl
from rich.markup import escape
from rich.text import Text

from nc_sweeps.errors import ConfigError
from nc_sweeps.metrics.catalogue import CLOCKS, METRICS
from nc_sweeps.report.axes import count_digits, format_key
from nc_sweeps.report.fitted_table import Column, FittedTable
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


def tabulate_answer(answer: pl.DataFrame) -> FittedTable:
    """Return the first rows of an answer as a table for a terminal, which leaves out the last columns if it is narrow.

    Metrics are rounded, keys have the digits that tell their values apart.
    """
    columns = []
    for rank, (name, kind) in enumerate(answer.head(MAX_ROWS).schema.items()):
        values = answer[name].head(MAX_ROWS).to_list()
        digits = count_digits(values)
        is_rounded = name in {*CLOCKS, *METRICS} and kind.is_float()
        cells = [Text(format_number(cell) if is_rounded else format_key(cell, digits)) for cell in values]
        columns.append(Column(escape(name), cells, rank, is_text=not kind.is_numeric(), name=name))
    more = [f"… and {answer.height - MAX_ROWS} more rows"] if answer.height > MAX_ROWS else []
    return FittedTable(columns, notes=more)
