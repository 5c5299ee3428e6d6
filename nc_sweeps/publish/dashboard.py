"""A workspace and a report of a sweep on Weights & Biases, described with wandb-workspaces.

Runs that differ in their seed alone are one group: a curve is the mean over seeds, its band one standard deviation.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from nc_sweeps.publish.weights_and_biases import (
    PublishingError,
    chart_name,
    default_entity,
    in_one_line,
    keep_chart,
    obstacle,
    plain_key,
    publish_report,
    report_id,
)
from nc_sweeps.report.charts import build_charts, build_heat_map
from nc_sweeps.report.digest import Axis, Quantity, digest_sweep
from nc_sweeps.report.page import render
from nc_sweeps.report.paper import write_figures
from nc_sweeps.store import files
from nc_sweeps.store.runs import run_directories

#: Metrics along training, those of one panel together.
_CURVES = {
    "NC1 and its certificate": ("nc1/train", "certificate/nc1_bound"),
    "NC1 on the test set": ("nc1/test",),
    "loss": ("loss/train", "loss/test"),
    "gradient norm": ("gradient_norm/a", "gradient_norm/u", "gradient_norm/w"),
    "balancedness": ("balancedness",),
    "error": ("error/train", "error/test"),
}
#: From collapsed to not, as Viridis.
_COLOURS = [wr.GradientPoint(colour, offset=at) for colour, at in (("#440154", 0), ("#21918c", 50), ("#fde725", 100))]
_SEEDS = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stddev", "max_runs_to_show": 100}
#: Of the grid of a report.
_ACROSS, _WIDTH, _HEIGHT = 3, 8, 6


class Dashboard:
    """What to look at for one sweep.

    Args:
        sweep: its folder.

    Raises:
        StoreError: there are no runs, or one cannot be read.
    """

    def __init__(self, sweep: Path) -> None:
        self.digest = digest_sweep(sweep)
        self.name = sweep.absolute().name
        self.tracking = files.read_yaml(run_directories(sweep)[0] / "config.yaml")["tracking"]
        self.keys = [axis.key for axis in self.digest.groups]
        self.ends = [quantity for quantity in self.digest.quantities if quantity.has_end_chart]

    def workspace(self, entity: str) -> ws.Workspace:
        """Sections of panels, the runs in groups."""
        sections = [ws.Section(name="along training", panels=self._curves(), is_open=True)]
        for axis in self.digest.groups:
            sections.append(ws.Section(name=f"by {axis.title}", panels=self._curves(axis.key)))
        sections.append(ws.Section(name="where training ended", panels=self._ends(entity), is_open=True))
        runs = ws.RunsetSettings(
            filters=self._runs,
            groupby=[ws.Config(key) for key in self.keys],
            pinned_columns=[f"summary:{quantity.name}.last" for quantity in self.ends],
        )
        settings = ws.WorkspaceSettings(x_axis="time", max_runs=100)
        return ws.Workspace(
            entity=entity,
            project=self.tracking["project"],
            name=self.name,
            sections=sections,
            settings=settings,
            runset_settings=runs,
        )

    def report(self, entity: str) -> wr.Report:
        """A page to share: the same panels in the order in which one reads them, and the sweep's own report."""
        varied = ", ".join(self.keys) or "nothing"
        by_key = [(wr.H2(f"By {key}"), self._grid(self._curves(key))) for key in self.keys]
        blocks = [
            wr.P(f"The sweep {self.name} varies {varied}. Curves are means over seeds, bands one standard deviation."),
            wr.H2("Does NC1 vanish, and does its certificate say why?"),
            self._grid(self._curves()),
            *(block for pair in by_key for block in pair),
            wr.H2("Where training ended"),
            self._grid(self._ends(entity)),
            wr.H2("Figures and the whole report"),
            self._media(),
        ]
        project = self.tracking["project"]
        return wr.Report(entity=entity, project=project, title=self.name, width="fluid", blocks=blocks)

    def json(self) -> str:
        """The specification of both and of the charts that they refer to, as the server would take it."""
        entity = self.tracking["entity"] or ""
        models = {"workspace": self.workspace(entity), "report": self.report(entity)}
        dumped = {
            name: board._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)
            for name, board in models.items()
        }
        charts = {chart_name(name, specification): specification for name, specification in HEAT_MAPS.items()}
        return json.dumps(dumped | {"charts": charts}, indent=1)

    def save(self) -> list[str]:
        """Make both on the server, with the charts and the figures that they show, or replace those made before.

        Returns:
            Their addresses.

        Raises:
            PublishingError: the server cannot be reached, or refuses.
        """
        if (why := obstacle("online")) is not None:
            raise PublishingError(f"{why}; --json writes the specification without it")
        entity = self.tracking["entity"] or default_entity()
        for name, specification in HEAT_MAPS.items():
            keep_chart(entity, name, specification)
        report, workspace = self.report(entity), self.workspace(entity)
        path = self.digest.sweep / "dashboard.json"
        known = files.read_json(path, {"report", "workspace"}) if path.exists() else None
        if known:
            report.id, (workspace._internal_name, workspace._internal_id) = known["report"], known["workspace"]
        try:
            with in_one_line():
                report.save()  # makes the project where there is none
                workspace.save()
        except PublishingError as error:
            raise PublishingError(f"{error}; without {path} new ones are made" if known else str(error)) from error
        made = {"report": report.id, "workspace": [workspace._internal_name, workspace._internal_id]}
        files.write(path, json.dumps(made).encode())
        self._publish_media()
        return [str(workspace.url), str(report.url)]

    def _publish_media(self) -> None:
        shown = {chart.name: chart.description for chart in build_charts(self.digest)}
        named = {axis.field: axis.key for axis in self.digest.axes}
        named |= {quantity.field: quantity.name for quantity in self.digest.quantities}
        runs = self.digest.runs.select(
            pl.col("folder").alias("run"), "status", *(pl.col(field).alias(name) for field, name in named.items())
        )
        with TemporaryDirectory() as folder:
            page = Path(folder) / "report.html"
            files.write(page, render(self.digest).encode())
            figures = {path: shown[path.stem] for path in write_figures(self.digest, Path(folder), ["png"])}
            publish_report(self.name, self.tracking, page, figures, runs)

    @property
    def _runs(self) -> ws.And:
        return ws.And(ws.Metric("Group") == self.name, ws.Metric("ID") != report_id(self.name))

    def _grid(self, panels: "Sequence[Any]") -> wr.PanelGrid:
        for number, panel in enumerate(panels):
            row, column = divmod(number, _ACROSS)
            panel.layout = wr.Layout(x=column * _WIDTH, y=row * _HEIGHT, w=_WIDTH, h=_HEIGHT)
        runs = wr.Runset(
            entity="",  # and project: those of the report
            project="",
            name=self.name,
            filters=self._runs,
            groupby=[f"config.{key}" for key in self.keys],
        )
        return wr.PanelGrid(runsets=[runs], panels=list(panels))

    def _media(self) -> wr.PanelGrid:
        """What the W&B run of the report holds."""
        charts = [chart.name for chart in build_charts(self.digest)]
        whole, half = _ACROSS * _WIDTH, 2 * _HEIGHT
        panels = [
            wr.MediaBrowser(
                title="figures",
                media_keys=[f"figures/{name}" for name in charts],
                num_columns=_ACROSS,
                layout=wr.Layout(x=0, y=0, w=whole, h=half),
            ),
            wr.MediaBrowser(
                title="report",
                media_keys=["report"],
                num_columns=1,
                layout=wr.Layout(x=0, y=half, w=whole, h=2 * half),
            ),
        ]
        filters = ws.And(ws.Metric("ID") == report_id(self.name))
        runs = wr.Runset(entity="", project="", name=f"report of {self.name}", filters=filters)
        return wr.PanelGrid(runsets=[runs], panels=panels)

    def _curves(self, key: str | None = None) -> list[Any]:
        """Metrics along training, by groups of runs, or by the values of one key."""
        together = {"groupby": wr.Config(key)} if key else {}
        return [
            wr.LinePlot(title=title, x="time", y=list(measured), log_x=True, log_y=True, **_SEEDS, **together)
            for title, names in _CURVES.items()
            if (measured := [name for name in names if name in self.digest.measured])
        ]

    def _ends(self, entity: str) -> list[Any]:
        logarithmic = {quantity.name: quantity.is_logarithmic for quantity in self.ends}
        last = {name: wr.SummaryMetric(f"{name}.last") for name in logarithmic}
        panels: list[Any] = [
            wr.ScatterPlot(title=f"{y} against {x}", x=last[x], y=last[y], log_x=True, log_y=logarithmic[y])
            for x, y in (("certificate/nc1_bound", "nc1/train"), ("nc1/train", "error/test"))
            if x in last and y in last
        ]
        if len(self.digest.main_axes) > 1:
            panels += [self._map(entity, quantity, *self.digest.main_axes[:2]) for quantity in self.ends]
        panels.append(self._certificate())
        columns = [wr.ParallelCoordinatesPlotColumn(wr.Config(key)) for key in self.keys]
        columns += [wr.ParallelCoordinatesPlotColumn(last[name], log=log) for name, log in logarithmic.items()]
        return [*panels, wr.ParallelCoordinatesPlot(columns=columns, title="all of it", gradient=_COLOURS)]

    def _map(self, entity: str, quantity: Quantity, y: Axis, x: Axis) -> wr.ScatterPlot | wr.CustomChart:
        """A metric over two keys: a heat map, or coloured points where each run has values of its own."""
        title = f"{quantity.title} over {x.title} and {y.title}"
        if not (x.is_discrete and y.is_discrete):
            return wr.ScatterPlot(
                title=title,
                x=wr.Config(x.key),
                y=wr.Config(y.key),
                z=wr.SummaryMetric(f"{quantity.name}.last"),
                log_z=quantity.is_logarithmic,
                gradient=_COLOURS,
            )
        name = _LOGARITHMIC if quantity.is_logarithmic else _LINEAR
        fields = {"x": plain_key(x.key), "y": plain_key(y.key), "value": plain_key(quantity.name)}
        return wr.CustomChart(
            query={"summary": {"keys": list(fields.values())}},
            chart_name=f"{entity}/{chart_name(name, HEAT_MAPS[name])}",
            chart_fields=fields,
            chart_strings={"x": x.title, "y": y.title, "value": quantity.title, "title": title},
        )

    def _certificate(self) -> wr.CustomChart:
        """The table of each run, drawn by one of the server's own charts."""
        return wr.CustomChart(
            query={"summaryTable": {"tableKey": "certificate"}},
            chart_name="wandb/scatter/v0",
            chart_fields={"x": "log10 bound", "y": "log10 NC1"},
            chart_strings={"title": "NC1 against its certificate, every measurement"},
        )


def _kept_heat_map(logarithmic: bool) -> dict[str, Any]:
    """A heat map in Vega-Lite as W&B keeps it: which columns and which titles is said by each panel."""
    x, y = (Axis(name, f"${{string:{name}}}", []) for name in "xy")
    chart = build_heat_map(Quantity("value", "${string:value}", logarithmic), x, y)
    specification = chart.specification
    read = [{"calculate": f"datum['${{field:{name}}}']", "as": name} for name in chart.fields]
    return specification | {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "title": "${string:title}",
        "data": {"name": "wandb"},
        "height": "container",
        "transform": read + specification["transform"],
    }


_LOGARITHMIC, _LINEAR = "heat map logarithmic", "heat map linear"
#: Charts that are kept on the server, by what they show.
HEAT_MAPS = {_LOGARITHMIC: _kept_heat_map(True), _LINEAR: _kept_heat_map(False)}
