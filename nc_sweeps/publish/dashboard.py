"""The dashboard of a sweep on Weights & Biases: a workspace and a W&B report, described with wandb-workspaces.

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

from nc_sweeps.publish.access import keep_to_itself
from nc_sweeps.publish.content import make_end_key, make_report_id, name_chart
from nc_sweeps.publish.weights_and_biases import (
    PublishingError,
    ask_default_entity,
    find_obstacle,
    keep_chart,
    publish_report,
    translate_errors,
)
from nc_sweeps.report.averages import AVERAGED
from nc_sweeps.report.charts import build_charts, build_heat_map
from nc_sweeps.report.digest import Axis, Quantity, digest_sweep
from nc_sweeps.report.page import render
from nc_sweeps.report.paper import write_figures
from nc_sweeps.store import files
from nc_sweeps.store.sweep_folder import SweepFolder

#: Metrics of each panel along training.
_CURVES = {
    "NC1 and its certificate": ("nc1/train", "certificate/nc1_bound"),
    "NC1 on the test set": ("nc1/test",),
    "loss": ("loss/train", "loss/test"),
    "gradient norm": ("gradient_norm/a", "gradient_norm/u", "gradient_norm/w"),
    "balancedness": ("balancedness",),
    "error": ("error/train", "error/test"),
}
#: Viridis, from collapsed to not collapsed.
_COLOURS = [wr.GradientPoint(colour, offset=at) for colour, at in (("#440154", 0), ("#21918c", 50), ("#fde725", 100))]
_SEEDS = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stddev", "max_runs_to_show": 100}
#: Panels in a row of a W&B report, and the size of a panel in units of its grid.
_ACROSS, _WIDTH, _HEIGHT = 3, 8, 6


class Dashboard:
    """A workspace and a W&B report of one sweep, which show the same.

    Args:
        sweep: folder of the sweep.

    Raises:
        StoreError: there are no runs, or one cannot be read.
    """

    def __init__(self, sweep: Path) -> None:
        self.digest = digest_sweep(sweep)
        self.name = sweep.absolute().name
        self.tracking = SweepFolder(sweep).run_folders()[0].read_config_tree()["tracking"]
        self.keys = [axis.key for axis in self.digest.groups]
        self.ends = [quantity for quantity in self.digest.quantities if quantity.has_end_chart]

    def build_workspace(self, entity: str) -> ws.Workspace:
        """Return the workspace: sections of panels, with the runs in groups."""
        sections = [ws.Section(name="along training", panels=self._build_curves(), is_open=True)]
        for axis in self.digest.groups:
            sections.append(ws.Section(name=f"by {axis.title}", panels=self._build_curves(axis.key)))
        sections.append(ws.Section(name="where training ended", panels=self._build_end_panels(entity), is_open=True))
        runs = ws.RunsetSettings(
            filters=self._filter,
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

    def build_report(self, entity: str) -> wr.Report:
        """Return the W&B report: a page to share with the same panels and the sweep's own report."""
        varied = ", ".join(self.keys) or "nothing"
        by_key = [(wr.H2(f"By {key}"), self._build_grid(self._build_curves(key))) for key in self.keys]
        blocks = [
            wr.P(
                f"The sweep {self.name} varies {varied}. Curves are means over seeds, bands one standard deviation. "
                "Runs that diverged or failed are left out by the filter on status, and maps take completed runs alone."
            ),
            wr.H2("Does NC1 vanish, and does its certificate say why?"),
            self._build_grid(self._build_curves()),
            *(block for pair in by_key for block in pair),
            wr.H2("Where training ended"),
            self._build_grid(self._build_end_panels(entity)),
            wr.H2("Figures and the whole report"),
            self._build_media(),
        ]
        project = self.tracking["project"]
        return wr.Report(entity=entity, project=project, title=self.name, width="fluid", blocks=blocks)

    def dump_json(self) -> str:
        """Return the specification of both, and of the charts to which they refer, as the server would take it."""
        entity = self.tracking["entity"] or ""
        models = {"workspace": self.build_workspace(entity), "report": self.build_report(entity)}
        dumped = {
            name: board._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)
            for name, board in models.items()
        }
        charts = {name_chart(name, specification): specification for name, specification in HEAT_MAPS.items()}
        return json.dumps(dumped | {"charts": charts}, indent=1)

    @keep_to_itself()
    def save(self) -> list[str]:
        """Save both on the server, with the charts and figures that they show, in place of those saved before.

        Returns:
            The addresses of the workspace and of the W&B report.

        Raises:
            PublishingError: the server cannot be reached, or refuses.
        """
        if (obstacle := find_obstacle("online")) is not None:
            raise PublishingError(f"{obstacle}; --json writes the specification without it")
        entity = self.tracking["entity"] or ask_default_entity()
        for name, specification in HEAT_MAPS.items():
            keep_chart(entity, name, specification)
        report, workspace = self.build_report(entity), self.build_workspace(entity)
        path = self.digest.sweep / "dashboard.json"
        known = files.read_json(path, {"report", "workspace"}) if path.exists() else None
        if known:
            report.id, (workspace._internal_name, workspace._internal_id) = known["report"], known["workspace"]
        try:
            with translate_errors():
                report.save()  # makes the project where there is none
                workspace.save()
        except PublishingError as error:
            raise PublishingError(f"{error}; without {path} new ones are made" if known else str(error)) from error
        saved = {"report": report.id, "workspace": [workspace._internal_name, workspace._internal_id]}
        files.write(path, json.dumps(saved).encode())
        self._publish_media()
        return [str(workspace.url), str(report.url)]

    def _publish_media(self) -> None:
        descriptions = {chart.name: chart.description for chart in build_charts(self.digest)}
        names = {axis.field: axis.key for axis in self.digest.axes}
        names |= {quantity.field: quantity.name for quantity in self.digest.quantities}
        runs = self.digest.runs.select(
            pl.col("folder").alias("run"), "status", *(pl.col(field).alias(name) for field, name in names.items())
        )
        with TemporaryDirectory() as folder:
            page = Path(folder) / "report.html"
            files.write(page, render(self.digest).encode())
            figures = {path: descriptions[path.stem] for path in write_figures(self.digest, Path(folder), ["png"])}
            publish_report(self.name, self.tracking, page, figures, runs)

    @property
    def _filter(self) -> ws.And:
        """The runs of the sweep that averages take, without the W&B run of its report."""
        return ws.And(
            ws.Metric("Group") == self.name,
            ws.Metric("ID") != make_report_id(self.name),
            ws.Summary("status").notin(["diverged", "failed"]),
        )

    def _build_grid(self, panels: Sequence[Any]) -> wr.PanelGrid:
        for number, panel in enumerate(panels):
            row, column = divmod(number, _ACROSS)
            panel.layout = wr.Layout(x=column * _WIDTH, y=row * _HEIGHT, w=_WIDTH, h=_HEIGHT)
        runs = wr.Runset(
            entity="",  # and project: those of the report
            project="",
            name=self.name,
            filters=self._filter,
            groupby=[f"config.{key}" for key in self.keys],
        )
        return wr.PanelGrid(runsets=[runs], panels=list(panels))

    def _build_media(self) -> wr.PanelGrid:
        """Return the panels that show what the W&B run of the report holds."""
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
        filters = ws.And(ws.Metric("ID") == make_report_id(self.name))
        runs = wr.Runset(entity="", project="", name=f"report of {self.name}", filters=filters)
        return wr.PanelGrid(runsets=[runs], panels=panels)

    def _build_curves(self, key: str | None = None) -> list[Any]:
        """Return the panels of metrics along training, with the runs in groups, or grouped by one key alone."""
        group = {"groupby": wr.Config(key)} if key else {}
        return [
            wr.LinePlot(title=title, x="time", y=list(measured), log_x=True, log_y=True, **_SEEDS, **group)
            for title, names in _CURVES.items()
            if (measured := [name for name in names if name in self.digest.measured])
        ]

    def _build_end_panels(self, entity: str) -> list[Any]:
        logarithmic = {quantity.name: quantity.is_logarithmic for quantity in self.ends}
        last = {name: wr.SummaryMetric(f"{name}.last") for name in logarithmic}
        panels: list[Any] = [
            wr.ScatterPlot(title=f"{y} against {x}", x=last[x], y=last[y], log_x=True, log_y=logarithmic[y])
            for x, y in (("certificate/nc1_bound", "nc1/train"), ("nc1/train", "error/test"))
            if x in last and y in last
        ]
        if len(self.digest.main_axes) > 1:
            panels += [self._build_map(entity, quantity, *self.digest.main_axes[:2]) for quantity in self.ends]
        panels.append(self._build_certificate())
        columns = [wr.ParallelCoordinatesPlotColumn(wr.Config(key)) for key in self.keys]
        columns += [wr.ParallelCoordinatesPlotColumn(last[name], log=log) for name, log in logarithmic.items()]
        return [*panels, wr.ParallelCoordinatesPlot(columns=columns, title="all of it", gradient=_COLOURS)]

    def _build_map(self, entity: str, quantity: Quantity, y: Axis, x: Axis) -> wr.ScatterPlot | wr.CustomChart:
        """Return the panel of a metric over two keys: a heat map, or points where each run has values of its own."""
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
        fields = {"x": make_end_key(x.key), "y": make_end_key(y.key), "value": make_end_key(quantity.name)}
        fields["status"] = "status"
        return wr.CustomChart(
            query={"summary": {"keys": list(fields.values())}},
            chart_name=f"{entity}/{name_chart(name, HEAT_MAPS[name])}",
            chart_fields=fields,
            chart_strings={"x": x.title, "y": y.title, "value": quantity.title, "title": title},
        )

    def _build_certificate(self) -> wr.CustomChart:
        """Return the panel of the table that each run has, drawn by one of the server's own charts."""
        return wr.CustomChart(
            query={"summaryTable": {"tableKey": "certificate"}},
            chart_name="wandb/scatter/v0",
            chart_fields={"x": "log10 bound", "y": "log10 NC1"},
            chart_strings={"title": "NC1 against its certificate, every measurement"},
        )


def _build_heat_map(is_logarithmic: bool) -> dict[str, Any]:
    """Return a heat map in Vega-Lite as W&B keeps it: each panel sets the columns and the titles."""
    x, y = (Axis(name, f"${{string:{name}}}", []) for name in "xy")
    chart = build_heat_map(Quantity("value", "${string:value}", is_logarithmic), x, y)
    specification = chart.specification
    read = [{"calculate": f"datum['${{field:{name}}}']", "as": name} for name in (*chart.fields, "status")]
    return specification | {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "title": "${string:title}",
        "data": {"name": "wandb"},
        "height": "container",
        "transform": [
            *read,
            {"filter": f"indexof({json.dumps(AVERAGED['runs'])}, datum.status) >= 0"},
            *specification["transform"],
        ],
    }


_LOGARITHMIC, _LINEAR = "heat map logarithmic", "heat map linear"
#: Charts that are kept on the server, by what they show.
HEAT_MAPS = {_LOGARITHMIC: _build_heat_map(True), _LINEAR: _build_heat_map(False)}
