"""The picture at the end of a sweep: metrics along training, or at its end."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from nc_sweeps.report.averages import AVERAGED, describe_left_out
from nc_sweeps.report.axes import find_axes, shorten_names

_WIDTH, _NETWORK = "width.particles", "model.name"
_ALONG = {"time": "time t = Σ η", "epoch": "epoch"}
_DASHES = [[1, 0], [6, 4], [1, 3], [8, 3, 1, 3], [3, 2]]
#: What is not positive is drawn on a logarithmic axis at its lower edge, this factor below all that is.
_BELOW = 2.0


def draw_sweep(table: pl.DataFrame, x: str, y: Sequence[str]) -> alt.FacetChart:
    """Draw metrics of a sweep along training, or their last values against a key that was varied.

    Axes are logarithmic where there is a positive value to show; epochs, and keys with values that are not positive,
    have linear ones. Each metric has its own dash, and each choice of the other keys that were varied its own colour.
    Along training each deep network and each width has its own panel. A curve is the mean over all seeds of the runs in
    :data:`nc_sweeps.report.averages.AVERAGED`; a mean that is not positive is a triangle at the edge of a logarithmic
    axis. The title says so, and counts the runs that are left out.

    Args:
        table: as :func:`nc_sweeps.load_sweep` returns it.
        x: ``time``, ``epoch``, or the configuration key against which the last values are drawn.
        y: metrics; those that were not measured are left out.
    """
    along = x in _ALONG
    own_place = {x, *((_WIDTH, _NETWORK) if along else ())}
    averaged = AVERAGED["curves" if along else "runs"]
    statuses = table.group_by("signature", maintain_order=True).last()["status"]
    left_out = describe_left_out(statuses, averaged)
    table = table.filter(pl.col("status").is_in(averaged))
    keys = [key for key in find_axes(table) if key not in own_place and not _follows(table, key, x)]
    rows = (
        table.filter(pl.col("time") > 0)
        if x == "time"
        else table
        if along
        else table.group_by("signature", maintain_order=True).last()
    )
    if missing := rows.filter(pl.col(x).is_null())["signature"].n_unique():
        left_out = ", ".join(filter(None, [left_out, f"{missing} without {x}"]))
        rows = rows.filter(pl.col(x).is_not_null())
    choice = pl.concat_str(
        [pl.col(key).cast(pl.String) for key in keys] or [pl.lit("")], separator=", ", ignore_nulls=True
    )
    choices = rows.select(*keys, choice.alias("choice")).unique().sort(*keys, "choice")["choice"].to_list()
    width = pl.format("N = {}", _WIDTH)
    network = pl.when(pl.col(_NETWORK) == "mean_field").then(width).otherwise(pl.col(_NETWORK))
    panel = network if along else pl.lit("at the end")
    curves = (
        rows.select(
            panel.alias("panel"),
            choice.alias("choice"),
            (pl.col(x).cast(pl.Float64) if _is_number(rows[x]) else pl.col(x).cast(pl.String)).alias("x"),
            *(pl.col(name) for name in y if name in rows.columns),
        )
        .unpivot(index=["panel", "choice", "x"], variable_name="quantity", value_name="value")
        .cast({"value": pl.Float64})
        .filter(pl.col("value").is_finite())
        .group_by("panel", "choice", "x", "quantity")
        .agg(pl.col("value").mean(), pl.len().alias("runs"))
        .sort("panel", "choice", "quantity", "x")
    )
    title = ", ".join(shorten_names(keys).values())
    colour = alt.Color("choice:N", sort=choices, title=title).scale(scheme="viridis", domain=choices)
    across = _encode_x(rows[x], _ALONG[x] if along else shorten_names([x])[x], is_linear=x == "epoch")
    panels = rows.sort(_NETWORK, _WIDTH).select(panel).unique(maintain_order=True).to_series().to_list()
    lines = _draw_lines(curves, has_points=not along).encode(
        x=across,
        color=colour if keys else alt.Undefined,
        strokeDash=alt.StrokeDash(
            "quantity:N",
            title=None,
            sort=list(y),
            legend=alt.Legend(symbolType="stroke", symbolSize=400, symbolStrokeColor="#444444"),
        ).scale(domain=list(y), range=[_DASHES[index % len(_DASHES)] for index in range(len(y))]),
    )
    lines = lines.properties(width=230 if along else 420, height=220 if along else 280)
    figure: alt.FacetChart = lines.facet(column=alt.Column("panel:N", title=None, sort=panels))
    words = _describe_curves(curves, left_out)
    return figure.properties(title=alt.Title(words, fontSize=11, fontWeight="normal")) if words else figure


def _draw_lines(curves: pl.DataFrame, has_points: bool) -> alt.LayerChart:
    """Return lines, and triangles where a logarithmic axis has no place for the value."""
    positive = curves["value"].filter(curves["value"] > 0)
    edge = None if positive.is_empty() else positive.min() / _BELOW  # type: ignore[operator]
    drawn = pl.col("value") if edge is None else pl.when(pl.col("value") > 0).then("value").otherwise(edge)
    y = alt.Y("drawn:Q", title=None, axis=_make_axis())
    y = y.scale(type="linear") if edge is None else y.scale(type="log", nice=False)
    layers = [alt.Chart().mark_line()]
    # With dashes of their own, filled marks would take those of the lines out of the legend.
    undashed = {"strokeDash": alt.value([1, 0])}
    if has_points:
        points = alt.Chart().mark_point(filled=True, size=30, opacity=1).encode(**undashed)
        layers.append(points.transform_filter("datum.value >= datum.drawn"))
    if edge is not None and positive.len() < curves.height:
        triangles = alt.Chart().mark_point(shape="triangle-down", filled=True, size=36, opacity=1).encode(**undashed)
        layers.append(triangles.transform_filter("datum.value <= 0"))
    return alt.layer(*layers, data=curves.with_columns(drawn.alias("drawn"))).encode(y=y)


def _encode_x(values: pl.Series, title: str, is_linear: bool) -> alt.X:
    """Return a horizontal axis that has a place for all values."""
    if not _is_number(values):
        return alt.X("x:O", title=title, sort=[str(value) for value in values.unique().sort()])
    is_linear = is_linear or not (values > 0).all()
    axis = alt.Axis(tickCount=6) if is_linear else _make_axis()
    return alt.X("x:Q", title=title, axis=axis).scale(type="linear" if is_linear else "log", nice=False)


def _make_axis() -> alt.Axis:
    # The many grid lines of a logarithmic axis would hide the curves.
    return alt.Axis(format="~g", gridOpacity=0.25, labelOverlap="greedy", tickCount=6)


def _describe_curves(curves: pl.DataFrame, left_out: str) -> str:
    words = ["mean over seeds"] if (curves["runs"] > 1).any() else []
    if (curves["value"] > 0).any() and not (curves["value"] > 0).all():
        words.append("▼ at the lower edge: 0" + (" or less" if (curves["value"] < 0).any() else ""))
    if left_out:
        words.append(f"left out: {left_out}")
    return "; ".join(words)


def _is_number(values: pl.Series) -> bool:
    return values.dtype.is_numeric() and bool(values.cast(pl.Float64).is_finite().all())


def _follows(table: pl.DataFrame, key: str, x: str) -> bool:
    """Return whether a key is a function of x, as a weight decay that is set to 1/β is of β."""
    return x not in _ALONG and table.select(key, x).n_unique() == table[x].n_unique()
