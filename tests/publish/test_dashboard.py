"""The workspace and the W&B report of a sweep, as the models of wandb-workspaces read them and a server gets them."""

import json
import math
import re

import pytest
import vl_convert
from wandb_workspaces.reports.v2 import internal as reports
from wandb_workspaces.workspaces import internal as workspaces

from nc_sweeps.publish.content import make_end_key
from nc_sweeps.publish.dashboard import Dashboard
from nc_sweeps.store.runs import RunStore
from nc_sweeps.store.sweep_folder import SweepFolder
from tests.configs import tiny
from tests.publish.commands import KEY, run
from tests.publish.wandb_server import Server

METRICS = ("nc1/train", "certificate/nc1_bound", "loss/train", "gradient_norm/a", "balancedness", "error/test")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two widths, two margins, two seeds; NC1 ends at e⁻¹⁻ˢ·width for seed s, the test error at s."""
    folder = tmp_path_factory.mktemp("results") / "question"
    for width in (8, 16):
        for margin in (-0.1, 0.3):
            for seed in (0, 1):
                config = tiny(f"width.particles={width}", f"separation.margin={margin}", f"seed={seed}")
                store = RunStore(folder / f"{width}{margin}{seed}", config, [])
                for step in (0, 1):
                    clocks = {"step": step, "time": float(step), "epoch": float(step), "seconds": 0.0}
                    ends = dict.fromkeys(METRICS, math.exp(-step - seed) * width) | {"error/test": float(seed)}
                    store.append(clocks | ends)
                store.finish("completed")
    return folder


@pytest.fixture(scope="module")
def specification(sweep):
    return json.loads(Dashboard(sweep).dump_json())


def find_panels(specification):
    """Return every panel of a specification by its title."""
    if isinstance(specification, dict):
        if "viewType" in specification:
            config = specification["config"]
            title = config.get("chartTitle") or config.get("stringSettings", {}).get("title")
            return {title or specification["viewType"]: specification}
        specification = list(specification.values())
    if isinstance(specification, list):
        return {title: panel for entry in specification for title, panel in find_panels(entry).items()}
    return {}


def test_a_dashboard_groups_by_what_the_sweep_varied(specification):
    workspace = workspaces.View.model_validate(specification["workspace"])
    assert (workspace.project, workspace.display_name) == ("nc-sweeps", "question")
    report = reports.ReportViewspec.model_validate(specification["report"])
    assert report.display_name == "question"

    keys = [("config", "width.value.particles"), ("config", "separation.value.margin")]
    grids = [block for block in specification["report"]["spec"]["blocks"] if block["type"] == "panel-grid"]
    *grids, media = [grid["metadata"]["runSets"][0] for grid in grids]
    for runset in [specification["workspace"]["spec"]["section"]["runSets"][0], *grids]:
        assert [(key["section"], key["name"]) for key in runset["grouping"]] == keys
        assert [filter_["value"] for filter_ in list_leaves(runset["filters"])] == [
            "question",
            list_leaves(media["filters"])[0]["value"],
            ["diverged", "failed"],
        ]
        assert [filter_["op"] for filter_ in list_leaves(runset["filters"])] == ["=", "!=", "NIN"]
    sections = workspace.spec.section.panel_bank_config.sections
    assert [section.name for section in sections] == [
        "along training",
        "by particles",
        "by margin",
        "where training ended",
    ]
    for board in (specification["workspace"], specification["report"]):
        panels = find_panels(board)
        curve = panels["NC1 and its certificate"]["config"]
        assert curve["xAxis"] == "time"
        assert (curve["groupAgg"], curve["groupArea"]) == ("mean", "stddev")
        maps = {title for title, panel in panels.items() if panel["viewType"] == "Vega2" and "over" in title}
        quantities = ("NC1, training", "bound of NC1", "test error", "balancedness NB")
        assert maps == {f"{quantity} over margin and particles" for quantity in quantities}
        assert {"loss", "gradient norm", "balancedness", "error/test against nc1/train", "all of it"} <= panels.keys()


def list_leaves(filters):
    if isinstance(filters, list):
        return [leaf for entry in filters for leaf in list_leaves(entry)]
    nested = filters.get("filters")
    return list_leaves(nested) if nested else [filters]


def fill_in(specification, panel, rows):
    """Return a kept chart as the server draws it: with names and texts of a panel, and its rows as the data."""
    config = panel["config"]
    text = json.dumps(specification)
    for kind, settings in (("field", config["fieldSettings"]), ("string", config["stringSettings"])):
        for name, value in settings.items():
            text = text.replace(f"${{{kind}:{name}}}", value)
    assert "${" not in text
    assert "null" not in text  # the server's page makes {} of it
    return json.loads(text) | {"data": {"values": rows}, "width": 300, "height": 200}


DARK, BRIGHT, MIDDLE = "rgb(68, 1, 84)", "rgb(253, 231, 37)", "rgb(33, 145, 141)"


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        # The means of e⁻¹·N and e⁻²·N, and of 0 and 1; a run that diverged is in neither.
        (
            "NC1, training",
            {width: (width * (math.exp(-1) + math.exp(-2)) / 2, c) for width, c in ((8, DARK), (16, BRIGHT))},
        ),
        ("test error", {8: (0.5, MIDDLE), 16: (0.5, MIDDLE)}),
    ],
)
def test_a_heat_map_shows_means_over_seeds_in_viridis(sweep, specification, title, expected):
    panel = find_panels(specification["report"])[f"{title} over margin and particles"]
    (query,) = panel["config"]["userQuery"]["queryFields"]
    ((keys,),) = [field["args"] for field in query["fields"] if field["name"] == "summary"]
    assert keys == {"name": "keys", "value": list(panel["config"]["fieldSettings"].values())}
    rows = []
    for folder in SweepFolder(sweep).run_folders():
        known = folder.read_config() | {name: folder.last_value(name) for name in METRICS}
        summary = {make_end_key(name): value for name, value in known.items()} | {"status": "completed"}
        rows.append({key: summary[key] for key in keys["value"]})
    rows.append({key: 1e40 if key in dict.fromkeys(map(make_end_key, METRICS)) else rows[0][key] for key in rows[0]})
    rows[-1]["status"] = "diverged"
    chart = fill_in(specification["charts"][panel["config"]["panelDefId"].rpartition("/")[2]], panel, rows)
    for version in ("5.8", vl_convert.get_vegalite_versions()[-1]):
        svg = vl_convert.vegalite_to_svg(chart, vl_version=version)
        cells = re.findall(r'"margin: (\S+); particles: (\d+); drawn: (\S+);[^"]*runs: 2"[^>]* fill="([^"]+)"', svg)
        assert {margin for margin, *_ in cells} == {"-0.1", "0.3"}
        assert len(cells) == 4
        for _, width, value, colour in cells:
            assert float(value) == pytest.approx(expected[int(width)][0], rel=1e-5)
            assert colour == expected[int(width)][1]
        numbers = re.findall(r'aria-roledescription="text mark"[^>]*>([^<]+)<', svg)
        assert sorted(numbers) == sorted(f"{expected[width][0]:.2g}" for width in (8, 8, 16, 16))
        assert f">{title} over margin and particles<" in svg


def test_it_is_saved_on_a_server_with_what_it_shows(sweep, tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    with Server() as server:
        user = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "HOME": str(folder), "TMPDIR": str(folder)}
        done = run(tmp_path, "nc-sweep", "dashboard", str(sweep), **user)
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(rf"{server.url}/me/nc-sweeps\?nw=\w+\n{server.url}/me/nc-sweeps/reports/.*\n", done.stdout)
        report, workspace = server.views.values()
        assert (workspace["entityName"], workspace["type"], report["type"]) == ("me", "project-view", "runs")
        assert workspace["projectName"] == report["projectName"] == "nc-sweeps"
        for view in server.views.values():
            assert view["displayName"] == "question"
            panels = find_panels(json.loads(view["spec"]))
            used = {panel["config"]["panelDefId"] for title, panel in panels.items() if " over " in title}
            assert used == {f"me/{name}" for name in server.charts}
        for chart in server.charts.values():
            assert (chart["entity"], chart["chartType"], chart["access"]) == ("me", "vega2", "PRIVATE")
            assert json.loads(chart["spec"])["data"] == {"name": "wandb"}
        (media,) = server.runs.values()
        assert (media["groupName"], media["jobType"], media["exit_code"]) == ("question", "report", 0)
        assert (
            list_leaves(json.loads(workspace["spec"])["section"]["runSets"][0]["filters"])[1]["value"] == media["name"]
        )
        assert media["summary"]["runs"]["nrows"] == 8
        assert any(content.startswith(b"<!DOCTYPE html>") for content in server.files.values())
        drawn = [path for path, content in server.files.items() if content.startswith(b"\x89PNG")]
        shown = find_panels(json.loads(report["spec"]))["figures"]["config"]["mediaKeys"]
        assert {key for key in shown if not any(f"/media/images/{key}_" in path for path in drawn)} == set()

        server.refused = "UpsertBucket"
        refused = run(tmp_path, "nc-sweep", "dashboard", str(sweep), **user)
        assert refused.returncode == 1
        assert refused.stderr.startswith("nc-sweep: W&B: ")
        assert "permission denied" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
        assert len(server.views) == len(server.charts) == 2  # those that were there
    assert KEY not in done.stdout + done.stderr + refused.stderr
    for folder in (tmp_path, sweep):
        assert not [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_without_a_key_it_says_so(sweep, tmp_path):
    done = run(tmp_path, "nc-sweep", "dashboard", str(sweep))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "nc-sweep: no API key; --json writes the specification without it\n"
