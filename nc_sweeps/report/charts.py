"""The charts of a report, each described once for the HTML page and for figures in a paper.

A chart names the columns that it reads and holds no data: the page gives it the rows that the reader chose in the
table, and :mod:`nc_sweeps.report.paper` gives it all rows; both leave out the runs that no average takes
(:mod:`nc_sweeps.report.averages`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import altair as alt

from nc_sweeps.report.chart_rows import average, filter_defined, find_edge, mark_edge
from nc_sweeps.report.digest import Axis, Digest, Quantity
from nc_sweeps.report.encodings import (
    DASHES,
    describe_mean,
    encode_colour,
    encode_dash,
    encode_x,
    encode_y,
    make_axis,
    make_key_axis,
    make_title,
)

#: Name of the data set from which a chart reads its rows.
DATA = "rows"

_PALETTES = {
    "light": {"text": "#1c2430", "muted": "#5b6675", "grid": "#dfe3e8", "extent": [0.0, 0.85], "accent": "#2b5fa8"},
    "dark": {"text": "#e6e9ee", "muted": "#a3adba", "grid": "#333b46", "extent": [0.22, 1.0], "accent": "#8ab4f0"},
}
#: A heat map with at most this many rows and columns shows a number in each cell.
_MOST_NUMBERS = 8
#: With at most this many curves each point shows its value under the mouse; more would make the page slow.
_MOST_CURVES_WITH_VALUES = 100


@dataclass(frozen=True)
class Chart:
    """A chart without data, and the columns that it reads.

    Args:
        name: name of its file and of its place in the page.
        title: short title.
        description: alternative text for readers who do not see the chart.
        source: ``runs``, one row for each run, or ``curves``, one row for each measurement with the axes of its run.
        fields: columns that the chart reads.
        picture: the Altair chart.
    """

    name: str
    title: str
    description: str
    source: Literal["runs", "curves"]
    fields: Sequence[str]
    picture: alt.LayerChart | alt.FacetChart

    @property
    def specification(self) -> dict[str, Any]:
        """Vega-Lite specification; the chart is as wide as the element that it is put into."""
        # Validation takes a second and is left to the tests.
        specification: dict[str, Any] = self.picture.to_dict(validate=False)
        del specification["config"]
        return specification | {"description": self.description}


def build_theme(name: str) -> dict[str, Any]:
    """Return Vega-Lite's configuration for ``light`` or ``dark``; its colours differ in lightness, not only in hue."""
    palette = _PALETTES[name]
    lettering = {"labelColor": palette["muted"], "titleColor": palette["text"], "titleFontWeight": "normal"}
    ramp = {"scheme": "viridis", "extent": palette["extent"]}
    return {
        "background": None,
        "font": "system-ui, sans-serif",
        "view": {"stroke": None},
        "axis": {
            **lettering,
            "gridColor": palette["grid"],
            "domainColor": palette["muted"],
            "tickColor": palette["muted"],
        },
        "legend": {**lettering, "symbolStrokeWidth": 2.5},
        "mark": {"color": palette["accent"]},
        "rule": {"color": palette["muted"]},
        "range": {"ordinal": ramp, "ramp": ramp},
    }


def build_curve_chart(digest: Digest, quantity: Quantity) -> Chart:
    """Chart a quantity along training: one line for each point of the sweep, with a band from minimum to maximum.

    A line is the mean over all values of the key that is averaged over.
    """
    groups = [axis.field for axis in digest.groups]
    colour, dash = _choose_colour_and_dash(digest)
    encodings: dict[str, Any] = {"detail": [alt.Detail(f"{name}:N") for name in groups]}
    if colour:
        encodings["color"] = encode_colour(colour)
    x = alt.X("time:Q", title="time t = Σ η", axis=make_axis(True)).scale(type="log", nice=False)
    title = make_title(quantity, digest.curves, [axis.title for axis in digest.axes if axis.key == digest.over])
    y, least = (encode_y(name, title, quantity.is_logarithmic) for name in ("drawn", "lower"))
    tips = [alt.Tooltip(f"{axis.field}:N", title=axis.title) for axis in digest.groups]
    values = [
        alt.Tooltip("time:Q", format=".3~g"),
        alt.Tooltip("value:Q", title=quantity.title, format=".3~g"),
        alt.Tooltip("runs:Q"),
    ]
    band = alt.Chart().mark_area(opacity=0.18, line=False).encode(x=x, y=least, y2="upper:Q", **encodings)
    band = band.transform_filter("datum.runs > 1")
    lines = alt.Chart().mark_line(strokeWidth=1.8).encode(x=x, y=y, tooltip=tips, **encodings)
    if dash:
        lines = lines.encode(strokeDash=encode_dash(dash))
    layers = [band, lines]
    if quantity.is_logarithmic:
        layers.append(mark_edge().encode(x=x, y=y, tooltip=tips + values, **encodings))
    if digest.runs.n_unique(groups or None) <= _MOST_CURVES_WITH_VALUES:
        points = alt.Chart().mark_point(size=60, opacity=0)
        layers.append(points.encode(x=x, y=y, tooltip=tips + values, **encodings))
    rows = average(quantity, [*groups, "point"], " && datum.time > 0", time="mean(time)")
    picture = _layer(rows, layers, height=340)
    fields = ["point", "time", *groups, quantity.field]
    return Chart(f"curve-{quantity.field}", quantity.title, f"{quantity.title} against time", "curves", fields, picture)


def build_end_chart(digest: Digest, quantity: Quantity) -> Chart | None:
    """Chart the last values of a quantity, as a heat map over two axes or a line over one.

    Returns:
        The chart, or None where nothing was varied.
    """
    axes = digest.main_axes
    if not axes:
        return None
    over = [axis.title for axis in digest.axes if axis not in axes[:2]]
    if len(axes) > 1 and all(axis.is_discrete for axis in axes[:2]):
        return build_heat_map(quantity, x=axes[1], y=axes[0], over=over)
    title = make_title(quantity, digest.runs, over)
    return _build_profile(quantity, title, axes[0], axes[1] if len(axes) > 1 else None)


def build_heat_map(quantity: Quantity, x: Axis, y: Axis, over: Sequence[str] = ()) -> Chart:
    """Chart the last values of a quantity over two axes, as means over all other keys.

    An axis whose values are unknown is sorted when the chart is drawn. A mean that a logarithmic scale of colours has
    no place for is written into its cell.

    Args:
        quantity: what is charted.
        x, y: the axes.
        over: titles of the keys that are averaged over, for the legend.
    """
    across, up = (x.values or "ascending"), (y.values[::-1] or "descending")
    encodings = {
        "x": alt.X(f"{x.field}:O", title=x.title, sort=across, axis=make_key_axis(x, labelAngle=0, grid=False)),
        "y": alt.Y(f"{y.field}:O", title=y.title, sort=up, axis=make_key_axis(y, grid=False)),
    }
    scale = alt.Scale(type="log" if quantity.is_logarithmic else "linear", scheme="viridis")
    legend = alt.Legend(format="~g", tickCount=4)
    cells = (
        alt.Chart()
        .mark_rect()
        .encode(
            **encodings,
            color=alt.Color("drawn:Q", title=describe_mean(over) or "", scale=scale, legend=legend),
            tooltip=[
                alt.Tooltip(f"{y.field}:N", title=y.title),
                alt.Tooltip(f"{x.field}:N", title=x.title),
                alt.Tooltip("value:Q", title=quantity.title, format=".3~g"),
                alt.Tooltip("runs:Q"),
            ],
        )
    )
    has_number = f"max(datum.columns, datum.lines) <= {_MOST_NUMBERS}"
    numbers = (
        alt.Chart()
        .transform_filter(f"{has_number} || datum.value < datum.drawn")
        .mark_text(fontSize=11)
        .encode(
            **encodings,
            text="label:N",
            color=alt.condition("datum.share > 0.55", alt.value("#111111"), alt.value("#ffffff")),
        )
    )
    level = "log(datum.drawn)" if quantity.is_logarithmic else "datum.drawn"
    rows = (
        average(quantity, [x.field, y.field])
        .transform_calculate(level=level)
        .transform_joinaggregate(
            low="min(level)", high="max(level)", columns=f"distinct({x.field})", lines=f"distinct({y.field})"
        )
        .transform_calculate(
            share="(datum.level - datum.low) / (datum.high - datum.low)",
            label="format(datum.value, datum.value && abs(datum.value) < 1e-3 ? '.1~e' : '.2~g')",
        )
    )
    picture = _layer(rows, [cells, numbers], height=max(120, min(360, 42 * len(y.values))))
    description = f"{quantity.title} at the end, heat map of {y.title} and {x.title}"
    fields = [x.field, y.field, quantity.field]
    return Chart(f"end-{quantity.field}", quantity.title, description, "runs", fields, picture)


def _build_profile(quantity: Quantity, title: list[str], x: Axis, group: Axis | None) -> Chart:
    across: alt.X
    if x.is_numeric:
        wide = x.values[0] > 0 and x.values[-1] >= 8 * x.values[0]
        across = alt.X(f"{x.field}:Q", title=x.title, axis=make_axis(wide))
        scale = {"type": "log"} if wide else {"type": "linear", "zero": False}
        across = across.scale(**scale, nice=False, padding=12)
    else:
        across = alt.X(f"{x.field}:O", title=x.title, sort=x.values, axis=make_key_axis(x, labelAngle=0))
    colour: dict[str, Any] = {"color": encode_colour(group)} if group else {}
    up, least = (encode_y(name, title, quantity.is_logarithmic) for name in ("drawn", "lower"))
    tips = [alt.Tooltip(f"{axis.field}:N", title=axis.title) for axis in (x, group) if axis]
    tips += [alt.Tooltip("value:Q", title=quantity.title, format=".3~g"), alt.Tooltip("runs:Q")]
    span = alt.Chart().mark_rule(strokeWidth=1.5).encode(x=across, y=least, y2="upper:Q", **colour)
    points = alt.Chart().transform_filter("datum.value >= datum.drawn").mark_point(filled=True, size=45)
    layers = [span, points.encode(x=across, y=up, tooltip=tips, **colour)]
    if quantity.is_logarithmic:
        layers.append(mark_edge().encode(x=across, y=up, tooltip=tips, **colour))
    if group is None or group.is_discrete:
        layers.append(alt.Chart().mark_line(strokeWidth=1.8).encode(x=across, y=up, **colour))
    groups = [axis.field for axis in (x, group) if axis]
    picture = _layer(average(quantity, groups), layers, height=240)
    description = f"{quantity.title} at the end against {x.title}"
    return Chart(f"end-{quantity.field}", quantity.title, description, "runs", [*groups, quantity.field], picture)


def build_comparison(digest: Digest, x: Quantity, y: Quantity, name: str) -> Chart:
    """Chart the last values of two quantities against each other, one point for each run, and the line of equality."""
    colour, _ = _choose_colour_and_dash(digest)
    fields = [axis.field for axis in digest.axes]
    tips = [alt.Tooltip(f"{axis.field}:N", title=axis.title) for axis in digest.axes]
    tips += [alt.Tooltip(f"{quantity.field}:Q", title=quantity.title, format=".3~g") for quantity in (x, y)]
    titles = [make_title(quantity, digest.runs, []) for quantity in (x, y)]
    place = {"x": encode_x("drawn_x", titles[0]), "y": encode_y("drawn_y", titles[1], True), "tooltip": tips}
    below = " || ".join(f"datum['{quantity.field}'] <= 0" for quantity in (x, y))
    points = alt.Chart().transform_filter(f"!({below})").mark_point(filled=True, size=45, opacity=0.8)
    at_edge = alt.Chart().transform_filter(below).mark_point(shape="triangle-down", filled=True, size=45, opacity=0.8)
    points, at_edge = (marks.encode(**place) for marks in (points, at_edge))
    if colour:
        points = points.encode(color=encode_colour(colour, symbol="circle"))
        at_edge = at_edge.encode(color=encode_colour(colour, symbol="circle"))
    equal = (
        alt.Chart()
        .transform_aggregate(low="min(drawn_x)", high="max(drawn_x)")
        .transform_calculate(both="[datum.low, datum.high]")
        .transform_flatten(["both"])
        .mark_line(strokeDash=[4, 3], strokeWidth=1, color="#888888")
        .encode(x=encode_x("both", titles[0]), y=encode_y("both", titles[1], True))
    )
    values = [f"datum['{quantity.field}']" for quantity in (x, y)]
    rows = alt.Chart().transform_filter(" && ".join(map(filter_defined, values)))
    rows = find_edge(rows, *values)
    rows = rows.transform_calculate(drawn_x=f"max({values[0]}, datum.edge)", drawn_y=f"max({values[1]}, datum.edge)")
    picture = _layer(rows, [equal, points, at_edge], height=280)
    title = f"{y.title} against {x.title}"
    return Chart(name, title, f"{title}, one point for each run", "runs", [*fields, x.field, y.field], picture)


def build_charts(digest: Digest) -> list[Chart]:
    """Return all charts of a sweep's report, adapted to what was varied and measured."""
    known = {
        quantity.name: quantity if _has_positive(digest, quantity) else replace(quantity, is_logarithmic=False)
        for quantity in digest.quantities
        if digest.curves[quantity.field].is_finite().any()
    }
    charts = [build_curve_chart(digest, quantity) for quantity in known.values()]
    charts += [chart for q in known.values() if q.has_end_chart and (chart := build_end_chart(digest, q))]
    for name, x, y in (
        ("certificate", "nc1/train", "certificate/nc1_bound"),
        ("imbalance", "imbalance/expected_deviation", "imbalance/law_deviation"),
    ):
        if all(quantity in known and known[quantity].is_logarithmic for quantity in (x, y)):
            charts.append(build_comparison(digest, known[x], known[y], name))
    return charts


def _layer(rows: alt.Chart, layers: Sequence[alt.Chart], height: int) -> alt.LayerChart | alt.FacetChart:
    """Put layers over the transformed rows; transforming them after layering would copy all layers at each step."""
    transform = rows.transform
    return alt.layer(*layers, data=alt.NamedData(DATA), transform=transform, width="container", height=height)


def _has_positive(digest: Digest, quantity: Quantity) -> bool:
    return bool((digest.curves[quantity.field] > 0).any())


def _choose_colour_and_dash(digest: Digest) -> tuple[Axis | None, Axis | None]:
    """Return the axis that colours show and the one that dashes show; of two axes dashes show the first, the width."""
    axes = digest.main_axes
    if len(axes) > 1 and len(axes[0].values) <= len(DASHES):
        return axes[1], axes[0]
    return (axes[0], None) if axes else (None, None)
