"""The rows that a chart draws: averages of all values, also of those that its axis has no place for."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from nc_sweeps.report.digest import Quantity

#: What is not positive is drawn on a logarithmic axis this factor below all that is; where nothing is, at ``_NOTHING``.
_BELOW, _NOTHING = 2, 1e-16


def average(quantity: Quantity, groups: Sequence[str], also: str = "", **fields: Any) -> alt.Chart:
    """Average all defined values of each group, and count them.

    The rows get ``value``, ``least`` and ``most``, and where these are drawn: ``drawn``, ``lower`` and ``upper``.

    Args:
        quantity: what is averaged.
        groups: fields whose values make the groups.
        also: further condition on the rows.
        fields: further aggregates by their names.
    """
    field = quantity.field
    rows = (
        alt.Chart()
        .transform_filter(filter_defined(f"datum['{field}']") + also)
        .transform_aggregate(
            value=f"mean({field})",
            least=f"min({field})",
            most=f"max({field})",
            **fields,
            runs="count()",
            groupby=list(groups),
        )
    )
    drawn = {"drawn": "datum.value", "lower": "datum.least", "upper": "datum.most"}
    if not quantity.is_logarithmic:
        return rows.transform_calculate(**drawn)
    rows = find_edge(rows, *drawn.values())
    return rows.transform_calculate(**{name: f"max({value}, datum.edge)" for name, value in drawn.items()})


def find_edge(rows: alt.Chart, *values: str) -> alt.Chart:
    """Add ``edge``: where a logarithmic axis shows what is not positive, below all values that are."""
    positive = ", ".join(f"{value} > 0 ? {value} : 1e300" for value in values)
    rows = rows.transform_calculate(positive=f"min({positive})").transform_joinaggregate(smallest="min(positive)")
    return rows.transform_calculate(edge=f"datum.smallest < 1e300 ? datum.smallest / {_BELOW} : {_NOTHING}")


def mark_edge() -> alt.Chart:
    """Return the marks of means that are not positive, at the edge of a logarithmic axis."""
    rows = alt.Chart().transform_filter("datum.value < datum.drawn")
    marks: alt.Chart = rows.mark_point(shape="triangle-down", filled=True, size=40, opacity=1)
    return marks


def filter_defined(value: str) -> str:
    """Return the condition that a value is a number."""
    return f"isValid({value}) && isFinite({value})"
