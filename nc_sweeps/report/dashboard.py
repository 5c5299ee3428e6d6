"""A workspace and a report of a sweep on Weights & Biases, described with wandb-workspaces.

Runs that differ in their seed alone are one group: a curve is the mean over seeds, its band one standard deviation.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from omegaconf import OmegaConf

from nc_sweeps.report.axes import axes, short_names
from nc_sweeps.tracking.store import load_sweep, run_directories
from nc_sweeps.tracking.weights_and_biases import PublishingError, default_entity, obstacle

#: Metrics along training, those of one panel together.
_CURVES = {
    "NC1 and its certificate": ("nc1/train", "certificate/nc1_bound"),
    "NC1 on the test set": ("nc1/test",),
    "loss": ("loss/train", "loss/test"),
    "gradient norm": ("gradient_norm/a", "gradient_norm/u", "gradient_norm/w"),
    "balancedness": ("balancedness",),
    "error": ("error/train", "error/test"),
}
#: Metrics that are compared where training ended.
_ENDS = ("nc1/train", "certificate/nc1_bound", "error/test", "balancedness")
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
        table = load_sweep(sweep)
        self.name = sweep.absolute().name
        self.tracking = OmegaConf.load(run_directories(sweep)[0] / "config.yaml").tracking
        self.keys = axes(table)
        self.numbers = [key for key in self.keys if table[key].dtype.is_numeric()]
        self.metrics = set(table.columns)

    def workspace(self, entity: str) -> ws.Workspace:
        """Sections of panels, the runs in groups."""
        sections = [ws.Section(name="along training", panels=self._curves(), is_open=True)]
        for key, title in short_names(self.keys).items():
            sections.append(ws.Section(name=f"by {title}", panels=self._curves(key)))
        sections.append(ws.Section(name="where training ended", panels=self._ends(), is_open=True))
        runs = ws.RunsetSettings(
            filters=ws.And(ws.Metric("Group") == self.name),
            groupby=[ws.Config(key) for key in self.keys],
            pinned_columns=[f"summary:{name}.last" for name in _ENDS if name in self.metrics],
        )
        settings = ws.WorkspaceSettings(x_axis="time", max_runs=100)
        return ws.Workspace(
            entity=entity,
            project=self.tracking.project,
            name=self.name,
            sections=sections,
            settings=settings,
            runset_settings=runs,
        )

    def report(self, entity: str) -> wr.Report:
        """A page to share: the same panels in the order in which one reads them."""
        varied = ", ".join(self.keys) or "nothing"
        blocks = [
            wr.P(f"The sweep {self.name} varies {varied}. Curves are means over seeds, bands one standard deviation."),
            wr.H2("Does NC1 vanish, and does its certificate say why?"),
            self._grid(self._curves()),
            *(block for key in self.keys for block in (wr.H2(f"By {key}"), self._grid(self._curves(key)))),
            wr.H2("Where training ended"),
            self._grid(self._ends()),
        ]
        return wr.Report(entity=entity, project=self.tracking.project, title=self.name, width="fluid", blocks=blocks)

    def json(self) -> str:
        """The specification of both, as the server would take it."""
        entity = self.tracking.entity or ""
        models = {"workspace": self.workspace(entity), "report": self.report(entity)}
        dumped = {
            name: board._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)
            for name, board in models.items()
        }
        return json.dumps(dumped, indent=1)

    def save(self) -> list[str]:
        """Make both on the server.

        Returns:
            Their addresses.

        Raises:
            PublishingError: the server cannot be reached.
        """
        if (why := obstacle("online")) is not None:
            raise PublishingError(f"{why}; --json writes the specification without it")
        entity = self.tracking.entity or default_entity()
        return [str(self.workspace(entity).save().url), str(self.report(entity).save().url)]

    def _grid(self, panels: "Sequence[Any]") -> wr.PanelGrid:
        for number, panel in enumerate(panels):
            row, column = divmod(number, _ACROSS)
            panel.layout = wr.Layout(x=column * _WIDTH, y=row * _HEIGHT, w=_WIDTH, h=_HEIGHT)
        runs = wr.Runset(
            entity="",  # and project: those of the report
            project="",
            name=self.name,
            filters=ws.And(ws.Metric("Group") == self.name),
            groupby=[f"config.{key}" for key in self.keys],
        )
        return wr.PanelGrid(runsets=[runs], panels=list(panels))

    def _curves(self, key: str | None = None) -> list[Any]:
        """Metrics along training, by groups of runs, or by the values of one key."""
        together = {"groupby": wr.Config(key)} if key else {}
        return [
            wr.LinePlot(title=title, x="time", y=list(measured), log_x=True, log_y=True, **_SEEDS, **together)
            for title, names in _CURVES.items()
            if (measured := [name for name in names if name in self.metrics])
        ]

    def _ends(self) -> list[Any]:
        ends = [name for name in _ENDS if name in self.metrics]
        last = {name: wr.SummaryMetric(f"{name}.last") for name in ends}
        panels: list[Any] = [
            wr.ScatterPlot(title=f"{y} against {x}", x=last[x], y=last[y], log_x=True, log_y=y != "error/test")
            for x, y in (("certificate/nc1_bound", "nc1/train"), ("nc1/train", "error/test"))
            if x in last and y in last
        ]
        panels += [self._map(name, self.numbers[0], self.numbers[1]) for name in ends if len(self.numbers) > 1]
        panels.append(self._certificate())
        columns = [wr.ParallelCoordinatesPlotColumn(wr.Config(key)) for key in self.keys]
        columns += [wr.ParallelCoordinatesPlotColumn(last[name], log=name != "error/test") for name in ends]
        return [*panels, wr.ParallelCoordinatesPlot(columns=columns, title="all of it", gradient=_COLOURS)]

    def _map(self, metric: str, x: str, y: str) -> wr.ScatterPlot:
        """A metric as colour over two keys; the library knows no heat map."""
        return wr.ScatterPlot(
            title=f"{metric} over {x} and {y}",
            x=wr.Config(x),
            y=wr.Config(y),
            z=wr.SummaryMetric(f"{metric}.last"),
            log_z=metric != "error/test",
            gradient=_COLOURS,
        )

    def _certificate(self) -> wr.CustomChart:
        """The table of each run, drawn by one of the server's own charts."""
        return wr.CustomChart(
            query={"summaryTable": {"tableKey": "certificate"}},
            chart_name="wandb/scatter/v0",
            chart_fields={"x": "certificate/nc1_bound", "y": "nc1/train"},
            chart_strings={"title": "NC1 against its certificate, every measurement"},
        )
