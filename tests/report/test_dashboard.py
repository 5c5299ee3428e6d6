"""The workspace and the report of a sweep, read back by the models of wandb-workspaces."""

import json
import math

from wandb_workspaces.reports.v2 import internal as reports
from wandb_workspaces.workspaces import internal as workspaces

from nc_sweeps.report.dashboard import Dashboard
from nc_sweeps.tracking.store import RunStore
from tests.conftest import tiny


def panels_of(specification):
    """Every panel of a specification by its title."""
    if isinstance(specification, dict):
        if "viewType" in specification:
            return {specification["config"].get("chartTitle", specification["viewType"]): specification}
        specification = list(specification.values())
    if isinstance(specification, list):
        return {title: panel for entry in specification for title, panel in panels_of(entry).items()}
    return {}


def test_a_dashboard_groups_by_what_the_sweep_varied(tmp_path):
    sweep = tmp_path / "question"
    metrics = ("nc1/train", "certificate/nc1_bound", "loss/train", "gradient_norm/a", "balancedness", "error/test")
    for width in (8, 16):
        for margin in (-0.1, 0.3):
            for seed in (0, 1):
                config = tiny(f"width.particles={width}", f"separation.margin={margin}", f"seed={seed}")
                store = RunStore(sweep / f"{width}{margin}{seed}", config, [])
                for step in (0, 1):
                    clocks = {"step": step, "time": float(step), "epoch": float(step), "seconds": 0.0}
                    store.append(clocks | {name: math.exp(-step) for name in metrics})
                store.finish("completed")

    specification = json.loads(Dashboard(sweep).json())
    workspace = workspaces.View.model_validate(specification["workspace"])
    assert (workspace.project, workspace.display_name) == ("nc-sweeps", "question")
    report = reports.ReportViewspec.model_validate(specification["report"])
    assert report.display_name == "question"

    keys = [("config", "width.value.particles"), ("config", "separation.value.margin")]
    grids = [block for block in specification["report"]["spec"]["blocks"] if block["type"] == "panel-grid"]
    runsets = [specification["workspace"]["spec"]["section"]["runSets"][0]]
    runsets += [grid["metadata"]["runSets"][0] for grid in grids]
    for runset in runsets:
        assert [(key["section"], key["name"]) for key in runset["grouping"]] == keys
        assert "question" in json.dumps(runset["filters"])
    sections = workspace.spec.section.panel_bank_config.sections
    assert [section.name for section in sections] == [
        "along training",
        "by particles",
        "by margin",
        "where training ended",
    ]
    for board in specification.values():
        panels = panels_of(board)
        curve = panels["NC1 and its certificate"]["config"]
        assert curve["xAxis"] == "time"
        assert (curve["groupAgg"], curve["groupArea"]) == ("mean", "stddev")
        assert panels["nc1/train over width.particles and separation.margin"]["viewType"] == "Scatter Plot"
        assert {"loss", "gradient norm", "balancedness", "error/test against nc1/train", "all of it"} <= panels.keys()
