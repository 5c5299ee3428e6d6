"""Axes, colours, dashes and their titles, as all charts of a report have them."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from nc_sweeps.report.digest import DISCRETE, Axis, Quantity

#: Dashes of lines, for the values of a key.
DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [12, 4]]


def make_title(quantity: Quantity, rows: pl.DataFrame, over: Sequence[str]) -> list[str]:
    """Return the lines of an axis title: what is drawn, of what it is a mean, and what its triangles are.

    Args:
        quantity: what is drawn.
        rows: all rows that may be drawn.
        over: titles of the keys that are averaged over.
    """
    has_edge = quantity.is_logarithmic and bool((rows[quantity.field] <= 0).any())
    return [quantity.title, *filter(None, [describe_mean(over), "▼ at the edge: 0 or less" if has_edge else ""])]


def describe_mean(over: Sequence[str]) -> str:
    """Return over what values are averaged; empty: over nothing."""
    return f"mean over {', '.join(over)}" if over else ""


def encode_colour(axis: Axis, symbol: str = "stroke") -> alt.Color:
    """Encode a key as colour: one for each value, or a gradient."""
    if axis.is_discrete:
        legend = alt.Legend(symbolType=symbol, symbolOpacity=1, symbolLimit=DISCRETE, **_label_keys(axis))
        return alt.Color(f"{axis.field}:O", title=axis.title, legend=legend).scale(domain=axis.values)
    scale = alt.Scale(type="log" if axis.values[0] > 0 else "linear")
    return alt.Color(f"{axis.field}:Q", title=axis.title, scale=scale, legend=alt.Legend(type="gradient", format="~g"))


def encode_dash(axis: Axis) -> alt.StrokeDash:
    """Encode a key of few values as dashes."""
    legend = alt.Legend(symbolType="stroke", symbolSize=300, **_label_keys(axis))
    shown = alt.StrokeDash(f"{axis.field}:O", title=axis.title, legend=legend)
    return shown.scale(domain=axis.values, range=DASHES[: len(axis.values)])


def encode_x(name: str, title: list[str]) -> alt.X:
    """Encode a column of numbers on a logarithmic horizontal axis."""
    return alt.X(f"{name}:Q", title=title, axis=make_axis(True)).scale(type="log", nice=False, padding=8)


def encode_y(name: str, title: list[str], logarithmic: bool) -> alt.Y:
    """Encode a column of numbers on the vertical axis."""
    y = alt.Y(f"{name}:Q", title=title, axis=make_axis(logarithmic))
    return y.scale(type="log", nice=False, padding=8) if logarithmic else y.scale(type="linear", zero=True)


def make_key_axis(axis: Axis, **options: Any) -> alt.Axis:
    """Make the axis of a key with a place for each value."""
    return alt.Axis(**options, **_label_keys(axis))


def _label_keys(axis: Axis) -> dict[str, Any]:
    """Return how the values of a key are written: with no more digits than tell them apart."""
    return {"format": f".{axis.digits}~g", "formatType": "number"} if axis.digits and axis.is_numeric else {}


def make_axis(logarithmic: bool) -> alt.Axis:
    """Make the axis of a number."""
    # The many grid lines of a logarithmic axis would hide the curves.
    return alt.Axis(format="~g", labelOverlap="greedy", tickCount=6, gridOpacity=0.5 if logarithmic else 1)
