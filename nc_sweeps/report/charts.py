"""The charts of a report, each described once for the HTML page and for figures in a paper.

A chart names the columns that it reads and holds no data: the page gives it the rows that the reader chose in the
table, and :mod:`nc_sweeps.report.paper` gives it all rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt

from nc_sweeps.report.digest import DISCRETE, Axis, Digest, Quantity

#: Name of the data set from which a chart reads its rows.
DATA = "rows"

_PALETTES = {
    "light": {"text": "#1c2430", "muted": "#5b6675", "grid": "#dfe3e8", "extent": [0.0, 0.85], "accent": "#2b5fa8"},
    "dark": {"text": "#e6e9ee", "muted": "#a3adba", "grid": "#333b46", "extent": [0.22, 1.0], "accent": "#8ab4f0"},
}
_MOST_DASHES = 5
#: A heat map with at most this many rows and columns shows a number in each cell.
_MOST_NUMBERS = 8
#: With at most this many curves each point shows its value under the mouse; more would make the page slow.
_MOST_CURVES_WITH_VALUES = 100
_DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [12, 4]]


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

    A line is the mean over the key that is averaged over, a geometric mean on a logarithmic scale.
    """
    groups = [axis.field for axis in digest.groups]
    colour, dash = _choose_colour_and_dash(digest)
    encodings: dict[str, Any] = {"detail": [alt.Detail(f"{name}:N") for name in groups]}
    if colour:
        encodings["color"] = _encode_colour(colour)
    x = alt.X("time:Q", title="time t = Σ η", axis=_make_axis(True)).scale(type="log", nice=False)
    y = _encode_y("value", quantity.title, quantity.is_logarithmic)
    tips = [alt.Tooltip(f"{axis.field}:N", title=axis.title) for axis in digest.groups]
    band = alt.Chart().mark_area(opacity=0.18, line=False).encode(x=x, y=y, y2="most:Q", **encodings)
    band = band.transform_filter("datum.runs > 1").encode(y=_encode_y("least", quantity.title, quantity.is_logarithmic))
    lines = alt.Chart().mark_line(strokeWidth=1.8).encode(x=x, y=y, tooltip=tips, **encodings)
    if dash:
        lines = lines.encode(strokeDash=_encode_dash(dash))
    layers = [band, lines]
    if digest.runs.n_unique(groups or None) <= _MOST_CURVES_WITH_VALUES:
        tips += [
            alt.Tooltip("time:Q", format=".3~g"),
            alt.Tooltip("value:Q", title=quantity.title, format=".3~g"),
            alt.Tooltip("runs:Q"),
        ]
        layers.append(alt.Chart().mark_point(size=60, opacity=0).encode(x=x, y=y, tooltip=tips, **encodings))
    span = {"least": f"min({quantity.field})", "most": f"max({quantity.field})"}
    rows = _average(quantity, [*groups, "point"], " && datum.time > 0", **span, time="mean(time)")
    rows = rows.transform_calculate(value=_restore_scale(quantity))
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
    if len(axes) > 1 and all(axis.is_discrete for axis in axes[:2]):
        return build_heat_map(quantity, x=axes[1], y=axes[0])
    return _build_profile(quantity, axes[0], axes[1] if len(axes) > 1 else None)


def build_heat_map(quantity: Quantity, x: Axis, y: Axis) -> Chart:
    """Chart the last values of a quantity over two axes, averaged over all other keys.

    The mean is geometric on a logarithmic scale. An axis whose values are unknown is sorted when the chart is drawn.
    """
    across, up = (x.values or "ascending"), (y.values[::-1] or "descending")
    encodings = {
        "x": alt.X(f"{x.field}:O", title=x.title, sort=across, axis=alt.Axis(labelAngle=0, grid=False)),
        "y": alt.Y(f"{y.field}:O", title=y.title, sort=up, axis=alt.Axis(grid=False)),
    }
    scale = alt.Scale(type="log" if quantity.is_logarithmic else "linear", scheme="viridis")
    cells = (
        alt.Chart()
        .mark_rect()
        .encode(
            **encodings,
            color=alt.Color("value:Q", title="", scale=scale, legend=alt.Legend(format="~g", tickCount=4)),
            tooltip=[
                alt.Tooltip(f"{y.field}:N", title=y.title),
                alt.Tooltip(f"{x.field}:N", title=x.title),
                alt.Tooltip("value:Q", title=quantity.title, format=".3~g"),
                alt.Tooltip("runs:Q"),
            ],
        )
    )
    numbers = (
        alt.Chart()
        .transform_filter(f"max(datum.columns, datum.lines) <= {_MOST_NUMBERS}")
        .mark_text(fontSize=11)
        .encode(
            **encodings,
            text="label:N",
            color=alt.condition("datum.share > 0.55", alt.value("#111111"), alt.value("#ffffff")),
        )
    )
    rows = (
        _average(quantity, [x.field, y.field])
        .transform_joinaggregate(
            low="min(level)", high="max(level)", columns=f"distinct({x.field})", lines=f"distinct({y.field})"
        )
        .transform_calculate(
            value=_restore_scale(quantity),
            share="(datum.level - datum.low) / (datum.high - datum.low)",
        )
        .transform_calculate(label="format(datum.value, datum.value && abs(datum.value) < 1e-3 ? '.1~e' : '.2~g')")
    )
    picture = _layer(rows, [cells, numbers], height=max(120, min(360, 42 * len(y.values))))
    description = f"{quantity.title} at the end, heat map of {y.title} and {x.title}"
    fields = [x.field, y.field, quantity.field]
    return Chart(f"end-{quantity.field}", quantity.title, description, "runs", fields, picture)


def _build_profile(quantity: Quantity, x: Axis, group: Axis | None) -> Chart:
    across: alt.X
    if x.is_numeric:
        wide = x.values[0] > 0 and x.values[-1] >= 8 * x.values[0]
        across = alt.X(f"{x.field}:Q", title=x.title, axis=_make_axis(wide))
        across = across.scale(type="log" if wide else "linear", zero=False, nice=False, padding=12)
    else:
        across = alt.X(f"{x.field}:O", title=x.title, sort=x.values, axis=alt.Axis(labelAngle=0))
    colour = {"color": _encode_colour(group)} if group else {}
    up = _encode_y("value", quantity.title, quantity.is_logarithmic)
    tips = [alt.Tooltip(f"{axis.field}:N", title=axis.title) for axis in (x, group) if axis]
    tips += [alt.Tooltip("value:Q", title=quantity.title, format=".3~g"), alt.Tooltip("runs:Q")]
    span = (
        alt.Chart()
        .mark_rule(strokeWidth=1.5)
        .encode(x=across, y=_encode_y("least", quantity.title, quantity.is_logarithmic))
    )
    span = span.encode(y2="most:Q", **colour)
    layers = [span, alt.Chart().mark_point(filled=True, size=45).encode(x=across, y=up, tooltip=tips, **colour)]
    if group is None or group.is_discrete:
        layers.append(alt.Chart().mark_line(strokeWidth=1.8).encode(x=across, y=up, **colour))
    groups = [axis.field for axis in (x, group) if axis]
    rows = _average(quantity, groups, least=f"min({quantity.field})", most=f"max({quantity.field})")
    rows = rows.transform_calculate(value=_restore_scale(quantity))
    picture = _layer(rows, layers, height=240)
    description = f"{quantity.title} at the end against {x.title}"
    return Chart(f"end-{quantity.field}", quantity.title, description, "runs", [*groups, quantity.field], picture)


def build_comparison(digest: Digest, x: Quantity, y: Quantity, name: str) -> Chart:
    """Chart the last values of two quantities against each other, one point for each run, and the line of equality."""
    colour, _ = _choose_colour_and_dash(digest)
    fields = [axis.field for axis in digest.axes]
    tips = [alt.Tooltip(f"{axis.field}:N", title=axis.title) for axis in digest.axes]
    tips += [alt.Tooltip(f"{quantity.field}:Q", title=quantity.title, format=".3~g") for quantity in (x, y)]
    points = (
        alt.Chart()
        .mark_point(filled=True, size=45, opacity=0.8)
        .encode(x=_encode_x(x.field, x.title), y=_encode_y(y.field, y.title, True), tooltip=tips)
    )
    if colour:
        points = points.encode(color=_encode_colour(colour, symbol="circle"))
    equal = (
        alt.Chart()
        .transform_aggregate(low=f"min({x.field})", high=f"max({x.field})")
        .transform_calculate(both="[datum.low, datum.high]")
        .transform_flatten(["both"])
        .mark_line(strokeDash=[4, 3], strokeWidth=1, color="#888888")
        .encode(x=_encode_x("both", x.title), y=_encode_y("both", y.title, True))
    )
    rows = alt.Chart().transform_filter(
        f"{_filter_defined(f'datum[{x.field!r}]', True)} && {_filter_defined(f'datum[{y.field!r}]', True)}"
    )
    picture = _layer(rows, [equal, points], height=280)
    title = f"{y.title} against {x.title}"
    return Chart(name, title, f"{title}, one point for each run", "runs", [*fields, x.field, y.field], picture)


def build_charts(digest: Digest) -> list[Chart]:
    """Return all charts of a sweep's report, adapted to what was varied and measured."""
    known = {quantity.name: quantity for quantity in digest.quantities if _has_values(digest, quantity)}
    charts = [build_curve_chart(digest, quantity) for quantity in known.values()]
    charts += [chart for q in known.values() if q.has_end_chart and (chart := build_end_chart(digest, q))]
    for name, x, y in (
        ("certificate", "nc1/train", "certificate/nc1_bound"),
        ("imbalance", "imbalance/expected_deviation", "imbalance/law_deviation"),
    ):
        if {x, y} <= known.keys():
            charts.append(build_comparison(digest, known[x], known[y], name))
    return charts


def _average(quantity: Quantity, groups: Sequence[str], also: str = "", **fields: Any) -> alt.Chart:
    """Average the rows of each group that have a value, on the quantity's scale, and count them.

    Args:
        quantity: what is averaged.
        groups: fields whose values make the groups.
        also: further condition on the rows.
        fields: further aggregates by their names.
    """
    value = f"datum['{quantity.field}']"
    return (
        alt.Chart()
        .transform_filter(_filter_defined(value, quantity.is_logarithmic) + also)
        .transform_calculate(level=f"log({value})" if quantity.is_logarithmic else value)
        .transform_aggregate(level="mean(level)", **fields, runs="count()", groupby=list(groups))
    )


def _restore_scale(quantity: Quantity) -> str:
    """Return the expression that turns an averaged level into a value; the mean is geometric on a logarithmic scale."""
    return "exp(datum.level)" if quantity.is_logarithmic else "datum.level"


def _layer(rows: alt.Chart, layers: Sequence[alt.Chart], height: int) -> alt.LayerChart | alt.FacetChart:
    """Put layers over the transformed rows; transforming them after layering would copy all layers at each step."""
    transform = rows.transform
    return alt.layer(*layers, data=alt.NamedData(DATA), transform=transform, width="container", height=height)


def _has_values(digest: Digest, quantity: Quantity) -> bool:
    """Return whether any value can be drawn: positive ones on a logarithmic axis, finite ones on a linear one."""
    values = digest.curves[quantity.field]
    return bool(((values > 0) if quantity.is_logarithmic else values.is_finite()).any())


def _choose_colour_and_dash(digest: Digest) -> tuple[Axis | None, Axis | None]:
    """Return the axis that colours show and the one that dashes show; of two axes dashes show the first, the width."""
    axes = digest.main_axes
    if len(axes) > 1 and len(axes[0].values) <= _MOST_DASHES:
        return axes[1], axes[0]
    return (axes[0], None) if axes else (None, None)


def _encode_colour(axis: Axis, symbol: str = "stroke") -> alt.Color:
    if axis.is_discrete:
        legend = alt.Legend(symbolType=symbol, symbolOpacity=1, symbolLimit=DISCRETE)
        return alt.Color(f"{axis.field}:O", title=axis.title, legend=legend).scale(domain=axis.values)
    scale = alt.Scale(type="log" if axis.values[0] > 0 else "linear")
    return alt.Color(f"{axis.field}:Q", title=axis.title, scale=scale, legend=alt.Legend(type="gradient", format="~g"))


def _encode_dash(axis: Axis) -> alt.StrokeDash:
    legend = alt.Legend(symbolType="stroke", symbolSize=300)
    shown = alt.StrokeDash(f"{axis.field}:O", title=axis.title, legend=legend)
    return shown.scale(domain=axis.values, range=_DASHES[: len(axis.values)])


def _encode_x(name: str, title: str) -> alt.X:
    return alt.X(f"{name}:Q", title=title, axis=_make_axis(True)).scale(type="log", nice=False, padding=8)


def _encode_y(name: str, title: str, logarithmic: bool) -> alt.Y:
    y = alt.Y(f"{name}:Q", title=title, axis=_make_axis(logarithmic))
    return y.scale(type="log", nice=False, padding=8) if logarithmic else y.scale(type="linear", zero=True)


def _make_axis(logarithmic: bool) -> alt.Axis:
    # The many grid lines of a logarithmic axis would hide the curves.
    return alt.Axis(format="~g", labelOverlap="greedy", tickCount=6, gridOpacity=0.5 if logarithmic else 1)


def _filter_defined(value: str, logarithmic: bool) -> str:
    return f"isValid({value}) && isFinite({value})" + (f" && {value} > 0" if logarithmic else "")
