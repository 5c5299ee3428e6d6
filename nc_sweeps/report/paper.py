"""The charts of a report as files for a paper."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import vl_convert

from nc_sweeps.report.averages import AVERAGED
from nc_sweeps.report.charts import DATA, Chart, build_charts, build_theme
from nc_sweeps.report.digest import Digest
from nc_sweeps.store import files

#: Width of the plot in pixels of 1/96 inch: with axis and legend a column of 3.3 inches.
_WIDTH = 190
_HEIGHT = 150
_PIXELS_PER_INCH = 300
_CONVERTERS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "pdf": vl_convert.vegalite_to_pdf,
    "svg": lambda specification: vl_convert.vegalite_to_svg(specification).encode(),
    "png": lambda specification: vl_convert.vegalite_to_png(specification, ppi=_PIXELS_PER_INCH),
}


def write_figures(digest: Digest, folder: Path, kinds: Sequence[str] = tuple(_CONVERTERS)) -> list[Path]:
    """Draw every chart of a sweep's report, one column wide.

    Args:
        digest: the condensed sweep.
        folder: where the files go; made where it is missing.
        kinds: kinds of files, of ``pdf``, ``svg`` and ``png``.

    Returns:
        The paths of the files.

    Raises:
        StoreError: the folder cannot be made or written.
    """
    files.make_folder(folder)
    written = []
    for chart in build_charts(digest):
        specification = _fit_to_paper(chart, _select_rows(digest, chart))
        for kind in kinds:
            path = folder / f"{chart.name}.{kind}"
            files.write(path, _CONVERTERS[kind](specification))
            written.append(path)
    return written


def _select_rows(digest: Digest, chart: Chart) -> list[dict[str, Any]]:
    averaged = digest.runs.filter(pl.col("status").is_in(AVERAGED[chart.source]))
    if chart.source == "runs":
        return averaged.select(chart.fields).to_dicts()
    axes = averaged.select("run", *(axis.field for axis in digest.axes))
    return digest.curves.join(axes, on="run", maintain_order="left").select(chart.fields).to_dicts()


def _fit_to_paper(chart: Chart, rows: list[dict[str, Any]]) -> dict[str, Any]:
    lettering = {"labelFontSize": 8, "titleFontSize": 9}
    config = build_theme("light")
    config |= {"background": "white", "font": "Helvetica, Arial, Liberation Sans, sans-serif"}
    config |= {"axis": config["axis"] | lettering, "text": {"fontSize": 8}}
    config |= {
        "legend": config["legend"]
        | lettering
        | {
            "orient": "bottom",
            "symbolSize": 120,
            "gradientThickness": 8,
            "layout": {"bottom": {"direction": "vertical", "offset": 6}},
        }
    }
    size = {"width": _WIDTH, "height": _HEIGHT}
    specification = chart.specification
    # Invisible points are there for the mouse.
    specification["layer"] = [layer for layer in specification["layer"] if layer["mark"].get("opacity") != 0]
    return specification | size | {"config": config, "datasets": {DATA: rows}}
