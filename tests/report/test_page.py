"""The HTML report in a browser, opened from a file as its reader opens it."""

import dataclasses
import re
import shutil
from pathlib import Path

import altair as alt
import pytest
from playwright.sync_api import Page, sync_playwright

from nc_sweeps.config import signature
from nc_sweeps.errors import ConfigError, StoreError
from nc_sweeps.pack import Pack
from nc_sweeps.report.charts import build_charts
from nc_sweeps.report.digest import digest_sweep
from nc_sweeps.report.page import write_report
from nc_sweeps.report.paper import write_figures
from nc_sweeps.run_spec import RunSpec
from nc_sweeps.store import manifest
from nc_sweeps.store.environment import describe_environment
from nc_sweeps.store.leases import LeaseHolder
from nc_sweeps.store.run_folder import RunFolder
from nc_sweeps.store.runs import RunStore
from tests.configs import tiny
from tests.doubles import SilentListener
from tests.processes import PATIENCE

ATTACK = "</script><script>alert(1)</script>"
WIDTHS, MARGINS, SEEDS = (8, 12), (-0.1, 0.05, 0.2), (0, 1)


def make_spec(sweep: Path, *overrides: str) -> RunSpec:
    config = tiny("dynamics.beta=1e4", *overrides)
    config.name = ATTACK
    return RunSpec(config, list(overrides), sweep / signature(config))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """A sweep of two widths, three margins and two seeds, with one more run that failed and one that was not begun."""
    folder = tmp_path_factory.mktemp("results") / "question"
    specs = [
        make_spec(folder, f"width.particles={width}", f"separation.margin={margin}", f"seed={seed}")
        for width in WIDTHS
        for margin in MARGINS
        for seed in SEEDS
    ]
    Pack(specs).train(SilentListener())
    failed = make_spec(folder, "seed=7")
    RunStore(failed.directory, failed.config, failed.overrides).finish("failed", f"no space left {ATTACK}")
    invocation = {"overrides": ["seed=0,1", f"name={ATTACK}"], "launcher": {}}
    manifest.write(folder, [*specs, failed, make_spec(folder, "seed=8")], invocation, describe_environment())
    return folder


@pytest.fixture(scope="module")
def browser():
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("no chromium in $PATH")
    with sync_playwright() as playwright:
        # The sandbox of Chromium refuses to run as root, as CI does.
        options = {"executable_path": executable, "args": ["--no-sandbox"], "timeout": 1000 * PATIENCE}
        with_browser = playwright.chromium.launch(**options)
        yield with_browser
        with_browser.close()


@pytest.fixture(scope="module")
def opened(browser, sweep):
    """Open the report in new pages; none of them may write to the console or use the network."""
    path, complaints = write_report(digest_sweep(sweep)), []

    def open_(**options) -> Page:
        page = browser.new_page(**options)
        page.set_default_timeout(1000 * PATIENCE)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda request: complaints.append(request.url) if request.url[:5] != "file:" else None)
        page.goto(path.as_uri())
        page.wait_for_selector("body[data-drawn]")
        return page

    yield open_
    assert complaints == []


@pytest.fixture
def page(opened):
    page = opened(viewport={"width": 1400, "height": 900})
    yield page
    page.close()


def column(page: Page, title: str) -> list[str]:
    """Return the texts of a column in the rows that are shown."""
    headings = page.locator("#table thead th").all_text_contents()
    cells = f"#table tbody tr:not([hidden]) td:nth-child({headings.index(title) + 1})"
    return page.locator(cells).all_text_contents()


def read_rows(page: Page, place: str) -> list[dict]:
    """Return the rows of a chart, once it is in view and up to date."""
    page.locator(place).scroll_into_view_if_needed()
    chart = f"document.querySelector({place!r})"
    page.wait_for_function(f"views.has({chart}) && !stale.has({chart}) && document.body.dataset.drawn")
    return page.evaluate(f"views.get({chart}).view.data(report.rows)")


def test_a_filter_changes_table_and_charts(page):
    assert len(column(page, "run")) == 13
    assert {row["separation_margin"] for row in read_rows(page, "#curves")} >= set(MARGINS)
    before = page.locator("#curves canvas").screenshot()
    page.get_by_role("group", name="margin").get_by_role("button", name="-0.1").click()
    assert column(page, "margin") == ["-0.1"] * 4
    assert {row["separation_margin"] for row in read_rows(page, "#curves")} == {-0.1}
    assert {row["separation_margin"] for row in read_rows(page, "[data-chart=end-nc1_train]")} == {-0.1}
    page.get_by_role("group", name="particles").get_by_role("button", name="12").click()
    assert column(page, "particles") == ["12"] * 2
    assert page.locator("#shown").text_content() == "2 of 13 runs"
    assert page.locator("#curves canvas").screenshot() != before
    page.get_by_role("button", name="Show all").click()
    assert len(column(page, "run")) == 13
    page.get_by_label("Find").fill("FAILED")
    assert column(page, "status") == ["failed"]
    assert read_rows(page, "#curves") == []


def test_chosen_rows_are_the_curves_also_from_the_keyboard(page):
    run = column(page, "run")[0]
    page.get_by_label(f"choose run {run}").focus()
    page.keyboard.press("Space")
    assert len(read_rows(page, "#curves")) == 8  # metrics.points
    assert page.locator("#shown").text_content() == "13 of 13 runs, curves of 1 chosen"
    page.locator("#table tbody tr").nth(1).click()
    assert len(read_rows(page, "#curves")) == 16
    assert len(read_rows(page, "[data-chart=end-nc1_train]")) == 13
    page.locator("#table tbody tr").nth(1).click()
    assert len(read_rows(page, "#curves")) == 8
    page.get_by_label("Curves of").select_option(label="loss")
    assert set(read_rows(page, "#curves")[0]) >= {"time", "loss_train"}
    assert len(read_rows(page, "#curves")) == 8


def test_a_click_on_a_heading_sorts(page, sweep):
    heading = page.get_by_role("columnheader", name="NC1, test")
    for direction, is_descending in (("ascending", False), ("descending", True)):
        heading.get_by_role("button").click()
        assert heading.get_attribute("aria-sort") == direction
        shown = column(page, "NC1, test")
        assert shown.pop() == "–"
        values = [float(text) for text in shown]
        assert values == sorted(values, reverse=is_descending)
    true = sorted(RunFolder(path.parent).last_value("nc1/test") for path in sweep.glob("*/metrics.parquet"))
    assert values[::-1] == pytest.approx(true, rel=0.01)


def test_the_lines_are_geometric_means_from_the_least_to_the_largest_seed(page):
    drawn = page.evaluate(
        """[...document.querySelectorAll("#curves")].flatMap((place) => {
            const { view } = views.get(place);
            const runtime = view._runtime.data;
            return Object.keys(runtime).flatMap((name) => runtime[name].values.value)
              .filter((row) => row.runs === 2 && row.most !== undefined)
              .map(({ point, width_particles, separation_margin, value, least, most }) =>
                [point, width_particles, separation_margin, value, least, most]);
        })"""
    )
    rows = read_rows(page, "#curves")
    assert drawn
    for point, width, margin, value, least, most in drawn:
        seeds = [
            row["nc1_train"]
            for row in rows
            if (row["point"], row["width_particles"], row["separation_margin"]) == (point, width, margin)
        ]
        assert value == pytest.approx((seeds[0] * seeds[1]) ** 0.5)
        assert [least, most] == sorted(seeds)


def test_what_a_user_wrote_stays_text(page, sweep):
    assert ATTACK in page.locator("#failures").text_content()
    assert ATTACK in page.locator("#configuration").text_content()
    assert ATTACK in page.locator("#reproduce").text_content()
    assert "alert(1)</script>" not in (sweep / "report.html").read_text()
    assert "12 completed, 1 failed, 1 waiting" in page.locator("header").text_content()
    commit = describe_environment()["git_commit"]
    assert commit is None or commit in page.locator("#reproduce").text_content()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_the_hour(opened, scheme):
    page = opened(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", background)))
    assert brightness > 600 if scheme == "light" else brightness < 150
    page.emulate_media(color_scheme="dark" if scheme == "light" else "light")
    page.wait_for_selector(f"body[data-drawn={'dark' if scheme == 'light' else 'light'}]")
    page.close()


def test_charts_are_valid_and_draw_as_files(sweep, tmp_path):
    condensed = digest_sweep(sweep)
    charts = {chart.name: chart for chart in build_charts(condensed)}
    for chart in charts.values():
        chart.picture.to_dict(validate=True)
        assert isinstance(chart.picture, alt.LayerChart)
    assert {"certificate", "imbalance", "end-nc1_train", "end-certificate_nc1_bound", "end-error_test"} <= charts.keys()
    assert {"end-balancedness", "curve-nc1_train", "curve-imbalance_law_deviation"} <= charts.keys()
    few = dataclasses.replace(condensed, quantities=condensed.quantities[:1])
    files = write_figures(few, tmp_path / "figures")
    assert sorted(file.stem for file in files) == ["curve-nc1_train"] * 3 + ["end-nc1_train"] * 3
    starts = {".pdf": b"%PDF", ".svg": b"<svg", ".png": b"\x89PNG"}
    for file in files:
        assert file.read_bytes().startswith(starts[file.suffix])
    boxes = [re.search(rb"/MediaBox \[\s*0 0 ([\d.]+)", file.read_bytes()) for file in files if file.suffix == ".pdf"]
    assert all(box and float(box[1]) <= 3.5 * 72 for box in boxes)


def write_runs(folder: Path, *variants: tuple[str, ...], rows: int = 3) -> Path:
    """Write runs with only few metrics."""
    for overrides in variants:
        config = tiny(*overrides)
        store = RunStore(folder / signature(config), config, list(overrides))
        for step in range(rows):
            store.append({"step": step, "time": 0.5 * step, "epoch": 1.0, "seconds": 1.0, "nc1/train": 1 / (1 + step)})
        store.flush()
    return folder


@pytest.mark.parametrize(
    ("variants", "ends"),
    [
        ([("seed=0",)], None),
        ([("seed=0",), ("seed=1",)], None),
        ([("width.particles=8",), ("width.particles=12",)], ["width_particles"]),
        ([("dynamics.beta=10",), ("dynamics.beta=inf",)], ["dynamics_beta"]),
    ],
    ids=["one", "seeds", "width", "infinite"],
)
def test_it_adapts_to_what_was_varied(tmp_path, variants, ends):
    condensed = digest_sweep(write_runs(tmp_path, *variants))
    pictures = [chart for chart in build_charts(condensed) if chart.name.startswith("end-")]
    assert [list(chart.fields) for chart in pictures] == ([] if ends is None else [[*ends, "nc1_train"]])
    assert "nobody goes on with it" in write_report(condensed).read_text()


def test_a_run_that_is_held_is_running_and_one_that_is_not_has_stopped(tmp_path):
    write_runs(tmp_path, ("seed=0",), ("seed=1",))
    with LeaseHolder(tmp_path, 60.0) as holder:
        assert holder.claim(signature(tiny("seed=0")))
        runs = digest_sweep(tmp_path).runs
    assert dict(runs.select("seed", "status").iter_rows()) == {0: "running", 1: "stopped"}
    assert [reason for reason in runs["reason"] if reason] == ["nobody goes on with it"]


def test_what_another_key_decides_is_no_axis_of_its_own(tmp_path):
    variants = [(f"dynamics.beta={b}", f"dynamics.lambda_rho={1 / b}", "seed=3") for b in (10, 100, 1000)]
    assert [axis.key for axis in digest_sweep(write_runs(tmp_path, *variants)).main_axes] == ["dynamics.beta"]
    grid = [(f"model.gamma={g}", f"dynamics.step_size={h}") for g in (1, 2) for h in (0.1, 0.2)]
    both = digest_sweep(write_runs(tmp_path / "grid", *grid)).main_axes
    assert {axis.key for axis in both} == {"model.gamma", "dynamics.step_size"}
    apart = [(f"model.gamma={1 + i}", f"dynamics.step_size={0.1 + i * 7 % 5}") for i in range(5)]
    assert len(digest_sweep(write_runs(tmp_path / "apart", *apart)).main_axes) == 2
    kinds = [(f"dataset={name}", f"model.gamma={gamma}") for name in ("gaussian", "separable") for gamma in (1, 2)]
    mixed = digest_sweep(write_runs(tmp_path / "mixed", *kinds)).main_axes
    assert {axis.key for axis in mixed} == {"dataset.name", "model.gamma"}


def test_long_sweeps_are_thinned_point_by_point(tmp_path, monkeypatch):
    monkeypatch.setattr("nc_sweeps.report.digest._MAX_ROWS", 40)
    curves = digest_sweep(write_runs(tmp_path, ("seed=0",), ("seed=1",), rows=101)).curves
    assert curves.height == 40
    assert curves["point"].min() == 0
    assert curves["point"].max() == 100
    assert curves.group_by("point").len()["len"].unique().to_list() == [2]


def test_curves_are_averaged_over_the_key_that_was_named(sweep, tmp_path):
    assert [axis.key for axis in digest_sweep(sweep, "width.particles").groups] == ["separation.margin", "seed"]
    with pytest.raises(ConfigError, match="--over=widht: no run has this key"):
        digest_sweep(sweep, "widht")
    with pytest.raises(StoreError, match="no runs here"):
        digest_sweep(tmp_path)
