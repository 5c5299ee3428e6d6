"""The HTML report in a browser, opened from a file as its reader opens it."""

import dataclasses
import re
import shutil
from pathlib import Path

import altair as alt
import pytest
from playwright.sync_api import Page, sync_playwright

from nc_sweeps.config import compute_signature
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
    return RunSpec(config, list(overrides), sweep / compute_signature(config))


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
    """Open a report in new pages, that of the sweep or of another; none may write to the console or use the network."""
    path, complaints = write_report(digest_sweep(sweep)), []

    def open_(path=path, **options) -> Page:
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
    assert len(read_rows(page, "[data-chart=end-nc1_train]")) == 12  # without the run that failed
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


def test_the_lines_are_means_from_the_least_to_the_largest_seed(page):
    drawn = page.evaluate(
        """[...document.querySelectorAll("#curves")].flatMap((place) => {
            const { view } = views.get(place);
            const runtime = view._runtime.data;
            return Object.keys(runtime).flatMap((name) => runtime[name].values.value)
              .filter((row) => row?.runs === 2 && row.most !== undefined)
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
        assert value == pytest.approx((seeds[0] + seeds[1]) / 2)
        assert [least, most] == sorted(seeds)


def read_averages(page: Page, place: str, field: str) -> list[dict]:
    """Return the averages that a chart draws, each once."""
    read_rows(page, place)
    found = page.evaluate(
        """([place, field]) => {
            const tables = Object.values(views.get(document.querySelector(place)).view._runtime.data);
            const rows = tables.flatMap((table) => table.values.value ?? []);
            return rows.filter((row) => row?.runs !== undefined && row.drawn !== undefined && field in row)
              .map(({ value, drawn, least, lower, most, runs, [field]: key }) =>
                ({ value, drawn, least, lower, most, runs, key }));
        }""",
        [place, field],
    )
    return list({(row["key"], row["value"], row["runs"]): row for row in found}.values())


def write_ends(folder: Path, *runs: tuple[str, float, str]) -> Path:
    """Write runs with these overrides, values of NC1 at the end, and statuses."""
    for overrides, nc1, status in runs:
        config = tiny(*overrides.split())
        store = RunStore(folder / compute_signature(config), config, overrides.split())
        for step in (0, 1):
            ends = {"nc1/train": nc1 if step else 1.0, "certificate/nc1_bound": nc1 if step else 1.0}
            store.append({"step": step, "time": float(step), "epoch": 1.0, "seconds": 1.0, **ends})
        store.finish(status, "") if status != "running" else store.flush()
    return folder


def test_values_of_a_sweeper_are_matched_in_full_and_shown_short(opened, tmp_path):
    margins = (0.5300842294420044, 0.12345678901234567)
    decays = (0.00012345, 0.5)
    runs = [(f"separation.margin={m} dynamics.lambda_w={d}", m * d, "completed") for m in margins for d in decays]
    page = opened(write_report(digest_sweep(write_ends(tmp_path, *runs))), viewport={"width": 1400, "height": 900})
    assert sorted(column(page, "margin")) == ["0.123457", "0.123457", "0.530084", "0.530084"]
    drawn = read_averages(page, "#curves", "dynamics_lambda_w")
    assert len(drawn) == 4
    assert {row["key"] for row in drawn} == set(decays)
    labels = page.evaluate(
        """Object.values(views.get(document.querySelector("#curves")).view.scenegraph().root.items)
            .flatMap(function texts(item) {
                return typeof item.text === "string" ? [item.text] : (item.items ?? []).flatMap(texts);
            })"""
    )
    assert {"0.530084", "0.123457", "0.00012345", "0.5"} <= set(labels)
    page.get_by_role("group", name="margin").get_by_role("button", name="0.530084").click()
    assert page.locator("#shown").text_content() == "2 of 4 runs"
    page.get_by_role("group", name="lambda_w").get_by_role("button", name="0.00012345").click()
    assert page.locator("#shown").text_content() == "1 of 4 runs"
    assert [row["value"] for row in read_averages(page, "[data-chart=end-nc1_train]", "dynamics_lambda_w")] == [
        pytest.approx(margins[0] * decays[0], rel=1e-3)
    ]
    page.close()


def test_zeros_are_in_every_mean_and_drawn_below_all_else(opened, tmp_path):
    runs = [(f"width.particles=8 seed={seed}", 0.0 if seed else 0.4, "completed") for seed in range(8)]
    runs += [(f"width.particles=12 seed={seed}", 0.0, "completed") for seed in range(2)]
    condensed = digest_sweep(write_ends(tmp_path, *runs))
    page = opened(write_report(condensed), viewport={"width": 1400, "height": 900})
    for place in ("#curves", "[data-chart=end-nc1_train]"):
        rows = {row["key"]: row for row in read_averages(page, place, "width_particles")}
        assert (rows[8]["runs"], rows[12]["runs"]) == (8, 2)
        assert (rows[8]["value"], rows[8]["least"], rows[8]["most"]) == (pytest.approx(0.05), 0, 0.4)
        assert rows[8]["drawn"] == pytest.approx(0.05)
        assert (rows[12]["value"], rows[12]["drawn"], rows[8]["lower"]) == (
            0,
            pytest.approx(0.025),
            pytest.approx(0.025),
        )
    page.close()
    chart = next(chart for chart in build_charts(condensed) if chart.name == "end-nc1_train")
    title = chart.picture.to_dict()["layer"][1]["encoding"]["y"]["title"]
    assert title == ["NC1, training", "mean over seed", "▼ at the edge: 0 or less"]


def test_runs_that_diverged_or_go_on_are_left_out_and_counted(opened, tmp_path):
    ends = [(0.2, "completed"), (0.4, "completed"), (1e40, "diverged"), (0.9, "running"), (0.8, "failed")]
    runs = [(f"width.particles={8 + 4 * (seed > 1)} seed={seed}", *end) for seed, end in enumerate(ends)]
    condensed = digest_sweep(write_ends(tmp_path, *runs))
    assert condensed.left_out == "1 diverged, 1 failed, 1 stopped"
    page = opened(write_report(condensed), viewport={"width": 1400, "height": 900})
    assert "0.2 … 0.4" in page.locator(".cards").text_content()
    assert "of 2 completed" in page.locator(".cards").text_content()
    assert {row["key"] for row in read_averages(page, "[data-chart=end-nc1_train]", "width_particles")} == {8}
    curves = [(row["key"], row["value"], row["runs"]) for row in read_averages(page, "#curves", "width_particles")]
    assert sorted(curves) == [(8, pytest.approx(0.3), 2), (12, 0.9, 1)]
    notes = page.locator("[data-left]").all_text_contents()
    assert notes[0] == "Left out: 1 diverged, 1 failed."
    assert sorted(notes[1].removeprefix("Left out: ").removesuffix(".").split(", ")) == [
        "1 diverged",
        "1 failed",
        "1 stopped",
    ]
    # The reader can ask for them.
    page.get_by_role("group", name="status").get_by_role("button", name="diverged").click()
    assert [row["value"] for row in read_averages(page, "[data-chart=end-nc1_train]", "width_particles")] == [
        pytest.approx(1e40)
    ]
    assert page.locator("[data-left=runs]").first.text_content() == ""
    page.get_by_role("button", name="Show all").click()
    page.locator("#table tbody tr", has_text="diverged").click()
    assert pytest.approx(1e40) in [row["value"] for row in read_averages(page, "#curves", "width_particles")]
    page.close()
    files = write_figures(dataclasses.replace(condensed, quantities=condensed.quantities[:1]), tmp_path / "f", ["svg"])
    assert all("e+" not in file.read_text() for file in files)


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
        store = RunStore(folder / compute_signature(config), config, list(overrides))
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
        assert holder.claim(compute_signature(tiny("seed=0")))
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
    for name, key in {
        "particles": "width.particles",
        "margin": "separation.margin",
        "dataset.margin": "separation.margin",
    }.items():
        assert digest_sweep(sweep, name).over == key
    with pytest.raises(ConfigError, match=r"--over=partcles: no run has this key; did you mean width\.particles\?"):
        digest_sweep(sweep, "partcles")
    with pytest.raises(ConfigError, match=r"varied: width\.particles, separation\.margin, seed"):
        digest_sweep(sweep, "zzz")
    with pytest.raises(ConfigError, match=r"--over=name: could be .* or "):
        digest_sweep(sweep, "name")
    with pytest.raises(StoreError, match="no runs here"):
        digest_sweep(tmp_path)
