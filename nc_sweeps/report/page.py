"""The report of a sweep: one HTML file that needs no network and no other file."""

import json
from collections.abc import Collection
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import polars as pl
from markupsafe import Markup

from nc_sweeps import cache
from nc_sweeps.report.averages import AVERAGED
from nc_sweeps.report.charts import DATA, build_charts, build_theme
from nc_sweeps.report.digest import Digest, make_field
from nc_sweeps.report.edge import METRIC, describe_near_edge, find_near_edge
from nc_sweeps.store import files

#: Most values of a key that the table of differing keys lists.
_MAX_VALUES = 8
_EXPORT = "window.vegaEmbed = vegaEmbed;"
_STATUSES = ("completed", "running", "stopped", "diverged", "failed")


def write_report(digest: Digest) -> Path:
    """Write ``report.html`` into the folder of a sweep.

    Returns:
        The file.
    """
    path = digest.sweep / "report.html"
    files.write(path, render(digest).encode())
    return path


def render(digest: Digest) -> str:
    """Return the report as HTML."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "template")
    # Names and reasons come from configurations and errors: everything that is not marked as safe is escaped.
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    charts = build_charts(digest)
    statuses = digest.runs["status"].to_list()
    counts = {status: statuses.count(status) for status in _STATUSES if status in statuses}
    if digest.waiting:
        counts["waiting"] = digest.waiting
    near = find_near_edge(digest.curves, "run", make_field(METRIC))
    differing = {key: values for key, values in digest.configuration.items() if len(values) > 1}
    return environment.get_template("page.html").render(
        name=digest.sweep.absolute().name,
        over=digest.over,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        counts=counts,
        cards=_make_cards(digest),
        names={chart.name for chart in charts},
        titles={chart.name: chart.title for chart in charts},
        curves=[chart for chart in charts if chart.name.startswith("curve-")],
        ends=[chart for chart in charts if chart.name.startswith("end-")],
        main=[axis.title for axis in digest.main_axes[:2]],
        others=[axis.title for axis in digest.axes if axis not in digest.main_axes[:2]],
        axes=[axis.title for axis in digest.axes],
        near_edge=near.join(digest.runs.select("run", "folder"), on="run", maintain_order="left").to_dicts(),
        edge=describe_near_edge(near, digest.runs.height),
        failures=digest.runs.filter(pl.col("status").is_in(["stopped", "diverged", "failed"])).to_dicts(),
        differing={
            key: [f"{value} ({count})" for value, count in values.most_common(_MAX_VALUES)]
            + ([f"… {len(values) - _MAX_VALUES} more"] if len(values) > _MAX_VALUES else [])
            for key, values in differing.items()
        },
        common={key: next(iter(values)) for key, values in digest.configuration.items() if key not in differing},
        commands=digest.commands,
        environments=_list_environments(digest),
        libraries=_read_libraries(),
        data={
            # Filters and charts compare the values of keys.
            "runs": _list_columns(digest.runs, whole={axis.field for axis in digest.axes}),
            "curves": _list_columns(digest.curves),
            "columns": _list_table_columns(digest),
            "filters": [
                {"field": axis.field, "title": axis.title, "values": axis.values, "digits": axis.digits}
                for axis in digest.axes
                if axis.is_discrete and len(axis.values) <= 2 * _MAX_VALUES
            ]
            + [{"field": "status", "title": "status", "values": [s for s in counts if s != "waiting"], "digits": None}],
            "charts": {
                chart.name: {
                    "source": chart.source,
                    "fields": list(chart.fields),
                    "specification": chart.specification,
                }
                for chart in charts
            },
            "rows": DATA,
            "averaged": AVERAGED,
            "themes": {name: build_theme(name) for name in ("light", "dark")},
        },
    )


def _make_cards(digest: Digest) -> list[tuple[str, str]]:
    cards = [("runs", str(digest.runs.height + digest.waiting))]
    ended = digest.runs.filter(pl.col("status").is_in(AVERAGED["runs"]))
    which = f" of {ended.height} completed" if digest.left_out or digest.waiting else ""
    for quantity in digest.quantities:
        values = ended[quantity.field].drop_nulls().to_list()
        if quantity.name in {"nc1/train", "nc1/test", "error/test"} and values:
            cards.append((f"{quantity.title}, best … worst{which}", f"{min(values):.2g} … {max(values):.2g}"))
    # Runs that train together share their seconds, which a sum would count many times.
    seconds = max(digest.runs["seconds"].drop_nulls(), default=0.0)
    cards.append(("training, longest run", f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds:.0f} s"))
    return cards


def _list_table_columns(digest: Digest) -> list[dict[str, Any]]:
    columns: list[dict[str, Any]] = [
        {"field": "folder", "title": "run", "kind": "text"},
        {"field": "status", "title": "status", "kind": "text"},
    ]
    columns += [
        {
            "field": axis.field,
            "title": axis.title,
            "kind": "key" if axis.is_numeric else "text",
            "digits": axis.digits,
        }
        for axis in digest.axes
    ]
    columns += [{"field": quantity.field, "title": quantity.title, "kind": "number"} for quantity in digest.quantities]
    return [*columns, {"field": "seconds", "title": "seconds", "kind": "number"}]


def _list_columns(table: pl.DataFrame, whole: Collection[str] = ()) -> dict[str, list[Any]]:
    """Return the columns as lists for JSON, with null for undefined values; but the ``whole`` ones with four digits."""
    floats = [name for name, kind in table.schema.items() if kind.is_float()]
    table = table.with_columns(
        pl.when(pl.col(name).is_finite())
        .then(pl.col(name) if name in whole else pl.col(name).round_sig_figs(4))
        .alias(name)
        for name in floats
    )
    return table.to_dict(as_series=False)


def _list_environments(digest: Digest) -> list[dict[str, str]]:
    found = {}
    for environment in digest.environments:
        found[json.dumps(environment, sort_keys=True)] = environment
    return [
        {
            "commit": environment.get("git_commit") or "not from a checkout",
            "host": f"{environment.get('host')} ({environment.get('machine')})",
            "versions": ", ".join(
                f"{name} {version}"
                for name, version in {"python": environment.get("python"), **environment.get("versions", {})}.items()
            ),
        }
        for environment in found.values()
    ]


def _read_libraries() -> Markup:
    """Return Vega, Vega-Lite and Vega-Embed as one script; bundling takes seconds and is done once on a machine."""
    import vl_convert

    path = cache.find_folder() / f"vega-embed-{version('vl-convert-python')}.js"
    if not path.exists():
        files.write(path, vl_convert.javascript_bundle(_EXPORT).encode())
    # JavaScript reads both spellings alike in strings and regular expressions, and HTML ends the script only at one.
    return Markup(path.read_text("utf-8").replace("</script", "<\\/script"))
