"""Tables, pictures and progress, made from tables whose right answer is known."""

import io
import re

import polars as pl
import pytest
from rich.console import Console

from nc_sweeps.config.schema import list_all_keys
from nc_sweeps.report.axes import count_digits, find_axes, format_key, shorten_names
from nc_sweeps.report.figures import draw_sweep
from nc_sweeps.report.progress import ProgressBar
from nc_sweeps.report.runs import draw_sparkline
from nc_sweeps.report.table import format_number, tabulate_sweep


def sweep(widths=(8, 16), margins=(-0.1, 0.3), seeds=(0, 1)):
    """Return a sweep in which NC1 falls from 1 to 10⁻ˢ⁻¹·(width + margin) for seed s."""
    rows = [
        {
            "signature": f"{width}/{margin}/{seed}",
            "status": "completed",
            "name": "test",
            "seed": seed,
            "dataset.seed": seed,
            "dataset.margin": margin,
            "width.particles": width,
            "model.name": "mean_field",
            "separation.margin": margin,
            "step": step,
            "time": 0.5 * step,
            "nc1/train": (width + margin) * 10.0 ** (-seed - 1) if step else 1.0,
            "error/test": None if step == 0 else 0.0,
        }
        for width in widths
        for margin in margins
        for seed in seeds
        for step in (0, 1, 100)
    ]
    return pl.DataFrame(rows)


def printed(table, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(tabulate_sweep(table))
    return console.file.getvalue()


def test_axes_are_what_was_varied():
    assert find_axes(sweep()) == ["width.particles", "separation.margin"]
    assert find_axes(sweep(widths=(8,))) == ["separation.margin"]
    own = sweep(widths=(8,)).with_columns(pl.lit(0.0).alias("separation.margin"))
    assert find_axes(own) == ["dataset.margin"]
    assert find_axes(sweep(widths=(8,), margins=(0.1,))) == []
    assert shorten_names(["width.particles", "separation.margin"])["separation.margin"] == "margin"
    assert shorten_names(["a.margin", "b.margin"]) == {"a.margin": "a.margin", "b.margin": "b.margin"}


def test_what_networks_of_another_kind_do_not_have_is_not_varied():
    deep = sweep(widths=(8,)).with_columns(
        pl.lit("mlp").alias("model.name"),
        pl.lit(None, pl.Int64).alias("width.particles"),
        signature=pl.lit("deep ") + pl.col("signature"),
    )
    one_width = pl.concat([sweep(widths=(8,)), deep])
    assert find_axes(one_width) == ["model.name", "separation.margin"]
    assert "None" not in printed(one_width)
    both = pl.concat([sweep(), deep])
    assert find_axes(both) == ["width.particles", "model.name", "separation.margin"]
    assert "None" not in printed(both)


def test_table_averages_over_seeds_and_shows_start_and_end():
    text = printed(sweep())
    assert "8 runs, means over seeds" in text
    # Means over seeds of (8 − 0.1)/10 and (8 − 0.1)/100.
    expected = [f"{(width + margin) * 0.055:.2g}" for width in (8, 16) for margin in (-0.1, 0.3)]
    ends = [line.split() for line in text.splitlines() if "end" in line.split()]
    assert [line[1] for line in ends] == expected
    assert [line[2] for line in ends] == ["0"] * 4
    starts = [line.split() for line in text.splitlines() if "start" in line.split()]
    assert next(line[:5] for line in starts) == ["8", "-0.1", "start", "1", "–"]
    assert max(map(len, text.splitlines())) <= 80


def test_table_of_one_run_and_of_many():
    one = printed(sweep((8,), (0.1,), (0,)))
    assert "runs" not in one
    many = printed(sweep(widths=tuple(range(1, 100)), margins=(0.1,), seeds=(0,)))
    assert "… and 39 more points" in many


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.0, "1"),
        (0.0123, "0.012"),
        (1.5e-5, "2e-5"),
        (12345.0, "1e4"),
        (250.0, "250"),
        (float("inf"), "∞"),
        (None, "–"),
    ],
)
def test_numbers_are_short(value, text):
    assert format_number(value) == text


def test_figure_draws_the_mean_of_each_choice():
    figure = draw_sweep(sweep(), "time", ["nc1/train"]).to_dict()
    (curves,) = figure["datasets"].values()
    drawn = {(c["panel"], c["choice"], c["x"]): c["value"] for c in curves if c["quantity"] == "nc1/train"}
    assert len(drawn) == 2 * 2 * 2  # widths × margins × positive times
    # Mean over seeds of 10⁻¹ and 10⁻².
    assert drawn["N = 16", "-0.1", 50.0] == pytest.approx(15.9 * 0.055, rel=1e-12)
    assert figure["title"]["text"] == "mean over seeds"
    assert figure["facet"]["column"]["sort"] == ["N = 8", "N = 16"]
    assert figure["spec"]["encoding"]["color"]["sort"] == ["-0.1", "0.3"]


def test_figure_against_epochs_begins_at_the_start():
    epochs = sweep().with_columns(epoch=pl.col("time") / 10)
    figure = draw_sweep(epochs, "epoch", ["nc1/train"]).to_dict()
    (curves,) = figure["datasets"].values()
    assert {curve["x"] for curve in curves} == set(epochs["epoch"])
    assert 0.0 in epochs["epoch"]
    assert figure["spec"]["encoding"]["x"]["scale"]["type"] == "linear"
    assert figure["spec"]["encoding"]["y"]["scale"]["type"] == "log"


def test_deep_networks_have_a_panel_each():
    deep = sweep(widths=(8,)).with_columns(
        pl.lit("vgg11").alias("model.name"), signature=pl.lit("deep ") + pl.col("signature")
    )
    figure = draw_sweep(pl.concat([sweep(), deep]), "time", ["nc1/train"]).to_dict()
    assert figure["facet"]["column"]["sort"] == ["N = 8", "N = 16", "vgg11"]
    assert figure["spec"]["encoding"]["color"]["title"] == "margin"


def test_figure_of_last_values_against_a_key():
    figure = draw_sweep(sweep(), "width.particles", ["nc1/train", "error/test"]).to_dict()
    (curves,) = figure["datasets"].values()
    drawn = {(c["choice"], c["x"]): c["value"] for c in curves if c["quantity"] == "nc1/train"}
    # Four points, each the mean of the last values.
    assert drawn.keys() == {("-0.1", 8.0), ("-0.1", 16.0), ("0.3", 8.0), ("0.3", 16.0)}
    assert drawn["0.3", 8.0] == pytest.approx(8.3 * 0.055, rel=1e-12)
    assert figure["spec"]["encoding"]["x"]["title"] == "particles"
    decays = sweep().with_columns((1 / pl.col("width.particles")).alias("dynamics.lambda_rho"))
    coloured = draw_sweep(decays, "width.particles", ["nc1/train"]).to_dict()["spec"]["encoding"]["color"]
    assert coloured["title"] == "margin"


def ends(values, statuses=None, **keys):
    """Return runs that differ in their seed, or in keys, with these test errors and statuses at their ends."""
    runs = sweep(widths=(8,), margins=(0.3,), seeds=range(len(values))).filter(pl.col("step") == 100)
    statuses = statuses or ["completed"] * len(values)
    columns = {"error/test": values, "status": statuses, **{name.replace("_", ".", 1): v for name, v in keys.items()}}
    return runs.with_columns(pl.Series(name, column) for name, column in columns.items())


def test_a_mean_is_over_all_seeds_also_those_at_zero():
    # One of 600 test samples is wrong in one of eight seeds: 1/600/8, not 1/600.
    figure = draw_sweep(ends([0.0] * 7 + [1 / 600]), "time", ["error/test"]).to_dict()
    (curves,) = figure["datasets"].values()
    assert [(curve["value"], curve["runs"]) for curve in curves] == [(pytest.approx(1 / 4800), 8)]


def test_zeros_on_a_logarithmic_axis_are_triangles_at_its_edge():
    table = ends([0.0, 0.0, 0.2], width_particles=[8, 16, 32], seed=[0, 0, 0])
    figure = draw_sweep(table, "width.particles", ["error/test"]).to_dict()
    (curves,) = figure["datasets"].values()
    assert [(curve["value"], curve["drawn"]) for curve in curves] == [(0.0, 0.1), (0.0, 0.1), (0.2, 0.2)]
    *_, triangles = figure["spec"]["layer"]
    assert triangles["mark"]["shape"] == "triangle-down"
    assert "strokeDash" in figure["spec"]["encoding"]
    assert triangles["encoding"]["strokeDash"] == {"value": [1, 0]}  # the legend shows the dashes of the lines
    assert triangles["transform"] == [{"filter": "datum.value <= 0"}]
    assert figure["title"]["text"] == "▼ at the lower edge: 0"
    assert figure["spec"]["encoding"]["y"]["scale"]["type"] == "log"
    all_zero = draw_sweep(ends([0.0, 0.0]), "time", ["error/test"]).to_dict()
    assert all_zero["spec"]["encoding"]["y"]["scale"]["type"] == "linear"


def test_runs_that_diverged_or_failed_are_in_no_average_and_counted():
    table = ends([0.1, 0.3, 1e40, 0.9], ["completed", "completed", "diverged", "failed"])
    for x in ("time", "width.particles"):
        figure = draw_sweep(table, x, ["error/test"]).to_dict()
        (curves,) = figure["datasets"].values()
        assert [curve["value"] for curve in curves] == [pytest.approx(0.2)]
        assert figure["title"]["text"] == "mean over seeds; left out: 1 diverged, 1 failed"
    text = printed(table)
    assert "left out: 1 diverged, 1 failed" in text
    assert next(line.split()[-1] for line in text.splitlines() if "end" in line.split()) == "0.2"
    nothing = printed(ends([0.1, 1e40], ["completed", "diverged"], dynamics_beta=[1.0, 2.0]))
    assert re.search(r"1 diverged +– +–", nothing)
    assert "1e40" in printed(ends([1e40], ["diverged"]))
    # Whoever still trains is in no average of last values.
    running = draw_sweep(ends([0.1, 0.5], ["completed", "running"]), "width.particles", ["error/test"]).to_dict()
    assert running["title"]["text"] == "left out: 1 running"


@pytest.mark.parametrize(
    ("key", "values", "scale", "drawn"),
    [
        ("separation.margin", [-0.1, 0.0, 0.3], "linear", [-0.1, 0.0, 0.3]),
        ("dynamics.beta", [10.0, 100.0, float("inf")], None, ["10.0", "100.0", "inf"]),
        ("model.activation", ["relu", "gelu", "tanh"], None, ["gelu", "relu", "tanh"]),
    ],
)
def test_the_axis_of_a_key_has_a_place_for_all_its_values(key, values, scale, drawn):
    figure = draw_sweep(ends([0.1, 0.2, 0.3], **{key.replace(".", "_", 1): values}), key, ["error/test"]).to_dict()
    (curves,) = figure["datasets"].values()
    assert sorted(curve["x"] for curve in curves) == sorted(drawn)
    assert figure["spec"]["encoding"]["x"].get("scale", {}).get("type") == scale


def test_keys_that_change_no_number_are_no_axes():
    table = ends([0.1, 0.3]).with_columns(
        pl.Series(name, ["a", "b"]) for name in ("figure.x", "compute.threads", "tracking.name", "data_dir")
    )
    assert find_axes(table) == []
    unsigned = {key.name for key in list_all_keys() if key.role == "unsigned"}
    # These say which values others have.
    named = {"separation.margin", "separation.distance", "dynamics.name", "dataset.path"}
    varied = ends([0.1, 0.3]).with_columns(pl.Series(name, ["a", "b"]) for name in sorted(unsigned))
    assert set(find_axes(varied.drop("dataset.margin"))) == named


def test_what_is_shown_of_a_key_has_the_digits_that_tell_its_values_apart():
    assert [format_key(value, count_digits([0.6300842294420044, 0.1])) for value in (0.6300842294420044, 0.1)] == [
        "0.630084",
        "0.1",
    ]
    close = [0.63008422, 0.63008423]
    assert [format_key(value, count_digits(close)) for value in close] == ["0.63008422", "0.63008423"]
    assert format_key(16384, count_digits([16384, 1])) == "16384"
    assert format_key(None, None) == "–"
    assert "0.00012345" in printed(ends([0.1, 0.2], dynamics_lambda_w=[0.00012345, 0.5]))


@pytest.mark.parametrize("metrics", [{"stationarity/score_free": 0.25}, {"nc4/train": None}, {}])
@pytest.mark.parametrize("seeds", [1, 2])
def test_any_metrics_give_a_table(metrics, seeds):
    table = ends([0.1] * seeds).drop("error/test", "nc1/train")
    text = printed(table.with_columns(pl.lit(value, pl.Float64).alias(name) for name, value in metrics.items()))
    cells = ["0.25" if value else "–" for value in metrics.values()]
    assert next(line.split()[1:] for line in text.splitlines() if "end" in line.split()) == cells


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_narrow_terminal_leaves_out_columns_and_cuts_no_digit(width):
    keys = {
        "dynamics_lambda_w": [0.00012345, 0.5], "dynamics_step_size": [0.0625, 0.5],
        "dataset_train_per_class": [100000, 50], "separation_margin": [0.12345, 0.75], "width_particles": [16384, 8],
    }  # fmt: skip
    table = ends([0.0012, 0.5], **keys)
    table = table.with_columns(pl.lit(0.0034).alias(n) for n in ("nc1/test", "certificate/nc1_bound", "balancedness"))
    text = printed(table, width)
    assert max(map(len, text.splitlines())) <= width
    for values in keys.values():
        for value in values:
            assert re.search(rf"(?<![\d.]){re.escape(str(value))}(?![\d.])", text)
    assert "…" not in text
    numbers = set(re.findall(r"(?<!\S)0\.00\d+", text))
    assert numbers <= {"0.0012", "0.0034", "0.00012345"}
    if width < 80:
        assert "no room for" in text


def test_figure_without_curves_is_empty():
    figure = draw_sweep(sweep().drop("nc1/train"), "time", ["nc1/train"]).to_dict()
    assert list(figure["datasets"].values()) == [[]]


def test_figure_keeps_other_choices_apart():
    both = pl.concat(
        [sweep().with_columns(beta=pl.lit(beta)).rename({"beta": "dynamics.beta"}) for beta in (10.0, 100.0)]
    )
    both = both.with_columns(pl.concat_str("signature", "dynamics.beta"))
    figure = draw_sweep(both, "time", ["nc1/train"]).to_dict()
    assert figure["spec"]["encoding"]["color"]["title"] == "margin, beta"
    assert figure["spec"]["encoding"]["color"]["sort"] == ["-0.1, 10.0", "-0.1, 100.0", "0.3, 10.0", "0.3, 100.0"]


def test_progress_is_printed_in_lines_where_there_is_no_terminal(capsys):
    with ProgressBar(Console(stderr=True)) as progress:
        progress.begin(3, 300)
        progress.advance(200, {"loss/train": [0.5, 0.1, 0.3], "nc1/train": [float("nan"), 0.2]})
        progress.finish_runs(2)
    assert capsys.readouterr().err == "2/3 runs trained: loss 0.3  NC1 train 0.2\n"


def test_a_sparkline_is_logarithmic_and_leaves_gaps():
    assert draw_sparkline([1.0, 1e-1, 1e-2, 1e-7]) == "█▇▆▁"
    assert draw_sparkline([0.0, 1.0, float("nan"), 1.0]) == "_▁ ▁"
    assert draw_sparkline([0.0]) == "_"
    assert draw_sparkline([float("nan"), float("nan")]) == ""
    assert len(draw_sparkline([1.0] * 1000)) <= 41
