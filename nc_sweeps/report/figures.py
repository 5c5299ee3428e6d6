"""The picture at the end of a sweep: metrics along training, or at its end."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from nc_sweeps.report.axes import find_axes, shorten_names

_WIDTH, _NETWORK = "width.particles", "model.name"
_ALONG = {"time": "time t = Σ η", "epoch": "epoch"}
_DASHES = [[1, 0], [6, 4], [1, 3], [8, 3, 1, 3], [3, 2]]


def draw_sweep(table: pl.DataFrame, x: str, y: Sequence[str]) -> alt.FacetChart:
    """Draw metrics of a sweep along training, or their last values against a key that was varied.

    Axes are logarithmic, only epochs have a linear one. Each metric has its own dash, and each choice of the other keys
    that were varied its own colour. Along training each deep network and each width has its own panel. A curve is the
    geometric mean over seeds; values that are not positive are left out.

    Args:
        table: as :func:`nc_sweeps.load_sweep` returns it.
        x: ``time``, ``epoch``, or the configuration key against which the last values are drawn.
        y: metrics; those that were not measured are left out.
    """
    along = x in _ALONG
    own_place = {x, *((_WIDTH, _NETWORK) if along else ())}
    keys = [key for key in find_axes(table) if key not in own_place and not _follows(table, key, x)]
    rows = (
        table.filter(pl.col("time") > 0)
        if x == "time"
        else table
        if along
        else table.group_by("signature", maintain_order=True).last()
    )
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
            pl.col(x).cast(pl.Float64).alias("x"),
            *(pl.col(name) for name in y if name in rows.columns),
        )
        .unpivot(index=["panel", "choice", "x"], variable_name="quantity", value_name="value")
        .cast({"value": pl.Float64})
        .filter(pl.col("value") > 0)
        .group_by("panel", "choice", "x", "quantity")
        .agg(pl.col("value").log().mean().exp())
        .sort("panel", "choice", "quantity", "x")
    )
    # The many grid lines of a logarithmic axis would hide the curves.
    axis = alt.Axis(format="~g", gridOpacity=0.25, labelOverlap="greedy", tickCount=6)
    title = ", ".join(shorten_names(keys).values())
    colour = alt.Color("choice:N", sort=choices, title=title).scale(scheme="viridis", domain=choices)
    x_title = _ALONG[x] if along else shorten_names([x])[x]
    lines = (
        alt.Chart(curves)
        .mark_line(point=not along)
        .encode(
            x=alt.X("x:Q", title=x_title, axis=alt.Axis(tickCount=6) if x == "epoch" else axis).scale(
                type="linear" if x == "epoch" else "log", nice=False
            ),
            y=alt.Y("value:Q", title=None, axis=axis).scale(type="log", nice=False),
            color=colour if keys else alt.Undefined,
            strokeDash=alt.StrokeDash(
                "quantity:N", title=None, sort=list(y), legend=alt.Legend(symbolType="stroke", symbolSize=400)
            ).scale(domain=list(y), range=[_DASHES[index % len(_DASHES)] for index in range(len(y))]),
        )
        .properties(width=230 if along else 420, height=220 if along else 280)
    )
    panels = rows.sort(_NETWORK, _WIDTH).select(panel).unique(maintain_order=True).to_series().to_list()
    figure: alt.FacetChart = lines.facet(column=alt.Column("panel:N", title=None, sort=panels))
    return figure


def _follows(table: pl.DataFrame, key: str, x: str) -> bool:
    """Return whether a key is a function of x, as a weight decay that is set to 1/β is of β."""
    return x not in _ALONG and table.select(key, x).n_unique() == table[x].n_unique()
