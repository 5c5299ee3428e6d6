"""Figures of a sweep, drawn from its store."""

import altair as alt
import polars as pl

from nc_sweeps.report.axes import axes, short_names

_CURVES = {"nc1/train": "NC1, training", "nc1/test": "NC1, test", "certificate/nc1_bound": "certified bound"}
_WIDTH = "width.particles"


def collapse_figure(table: pl.DataFrame) -> alt.FacetChart:
    """NC1 on the training and on the test set and the certificate's bound against training time.

    One panel a width, one colour for each choice of everything else that the sweep varied; a curve is the geometric
    mean over seeds.

    Args:
        table: as :func:`nc_sweeps.load_sweep` gives it.
    """
    keys = [key for key in axes(table) if key != _WIDTH]
    choice = pl.concat_str(
        [pl.col(key).cast(pl.String) for key in keys] or [pl.lit("")], separator=", ", ignore_nulls=True
    )
    choices = table.select(*keys, choice.alias("choice")).unique().sort(*keys, "choice")["choice"].to_list()
    curves = (
        table.filter(pl.col("time") > 0)
        .select(
            pl.format("N = {}", _WIDTH).alias("panel"),
            choice.alias("choice"),
            "time",
            *(pl.col(name).alias(label) for name, label in _CURVES.items() if name in table.columns),
        )
        .unpivot(index=["panel", "choice", "time"], variable_name="quantity", value_name="value")
        .cast({"value": pl.Float64})
        .filter(pl.col("value") > 0)
        .group_by("panel", "choice", "time", "quantity")
        .agg(pl.col("value").log().mean().exp())
        .sort("panel", "choice", "quantity", "time")
    )
    quantities = list(_CURVES.values())
    # Both axes are logarithmic: their many minor grid lines would drown the curves.
    axis = alt.Axis(format="~g", gridOpacity=0.25, labelOverlap="greedy", tickCount=6)
    title = ", ".join(short_names(keys).values())
    colour = alt.Color("choice:N", sort=choices, title=title).scale(scheme="viridis", domain=choices)
    lines = (
        alt.Chart(curves)
        .mark_line()
        .encode(
            x=alt.X("time:Q", title="time t = Σ η", axis=axis).scale(type="log", nice=False),
            y=alt.Y("value:Q", title="NC1", axis=axis).scale(type="log", nice=False),
            color=colour if keys else alt.Undefined,
            strokeDash=alt.StrokeDash("quantity:N", title=None, sort=quantities).scale(
                domain=quantities, range=[[1, 0], [6, 4], [1, 3]]
            ),
        )
        .properties(width=230, height=220)
    )
    panels = [f"N = {width}" for width in sorted(table[_WIDTH].unique())]
    figure: alt.FacetChart = lines.facet(column=alt.Column("panel:N", title=None, sort=panels))
    return figure
