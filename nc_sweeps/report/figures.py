"""Figures of a sweep, drawn from its store."""

from pathlib import Path

import altair as alt
import polars as pl

from nc_sweeps.tracking.store import load_sweep

_SEPARATIONS = ("separation.margin", "separation.distance")


def collapse_figure(table: pl.DataFrame) -> alt.FacetChart:
    """NC1 on the training and on the test set and the certificate's bound against training time.

    One panel a width, one colour a separation, each the geometric mean over the runs that share both.

    Args:
        table: as :func:`nc_sweeps.load_sweep` gives it.
    """
    knob = next((key for key in _SEPARATIONS if table[key].n_unique() > 1), "separation.margin")
    measured = {"nc1/train": "NC1, training", "nc1/test": "NC1, test", "certificate/nc1_bound": "certified bound"}
    curves = (
        table.filter(pl.col("time") > 0)
        .select(
            pl.format("N = {}", "width.particles").alias("N"),
            pl.col(knob).alias("separation"),
            "time",
            *(pl.col(name).alias(label) for name, label in measured.items() if name in table.columns),
        )
        .unpivot(index=["N", "separation", "time"], variable_name="quantity", value_name="value")
        .filter(pl.col("value") > 0)
        .group_by("N", "separation", "time", "quantity")
        .agg(pl.col("value").log().mean().exp())
        .sort("N", "separation", "quantity", "time")
    )
    quantities = list(measured.values())
    # Both axes are logarithmic: their many minor grid lines would drown the curves.
    axis = alt.Axis(format="~g", gridOpacity=0.25, labelOverlap="greedy", tickCount=6)
    lines = (
        alt.Chart(curves)
        .mark_line()
        .encode(
            x=alt.X("time:Q", title="time t = Σ η", axis=axis).scale(type="log", nice=False),
            y=alt.Y("value:Q", title="NC1", axis=axis).scale(type="log", nice=False),
            color=alt.Color("separation:O", title=knob.partition(".")[2]).scale(scheme="viridis"),
            strokeDash=alt.StrokeDash("quantity:N", title=None, sort=quantities).scale(
                domain=quantities, range=[[1, 0], [6, 4], [1, 3]]
            ),
        )
        .properties(width=230, height=220)
    )
    widths = [f"N = {width}" for width in sorted(table["width.particles"].unique())]
    figure: alt.FacetChart = lines.facet(column=alt.Column("N:N", title=None, sort=widths))
    return figure


def save_collapse(sweep: Path, path: Path) -> Path:
    """Draw :func:`collapse_figure` for a sweep directory into an SVG, PNG or PDF file and return its path."""
    alt.data_transformers.disable_max_rows()
    collapse_figure(load_sweep(sweep)).save(path)
    return path
