"""Tables, pictures and progress, made from tables whose right answer is known."""

import io

import polars as pl
import pytest
from rich.console import Console

from nc_sweeps.report.axes import find_axes, shorten_names
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
    assert "8 runs, mean of 2 seeds" in text
    # Mean over seeds of (8 − 0.1)/10 and (8 − 0.1)/100.
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


def test_figure_draws_the_geometric_mean_of_each_choice():
    figure = draw_sweep(sweep(), "time", ["nc1/train"]).to_dict()
    (curves,) = figure["datasets"].values()
    drawn = {(c["panel"], c["choice"], c["x"]): c["value"] for c in curves if c["quantity"] == "nc1/train"}
    assert len(drawn) == 2 * 2 * 2  # widths × margins × positive times
    # Geometric mean over seeds of 10⁻¹ and 10⁻².
    assert drawn["N = 16", "-0.1", 50.0] == pytest.approx(15.9 * 10**-1.5, rel=1e-12)
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
    drawn = {(c["choice"], c["x"]): c["value"] for c in curves}
    # Four points, each the geometric mean of the last values; an error of 0 has no place on a logarithmic axis.
    assert drawn.keys() == {("-0.1", 8.0), ("-0.1", 16.0), ("0.3", 8.0), ("0.3", 16.0)}
    assert drawn["0.3", 8.0] == pytest.approx(8.3 * 10**-1.5, rel=1e-12)
    assert figure["spec"]["encoding"]["x"]["title"] == "particles"
    decays = sweep().with_columns((1 / pl.col("width.particles")).alias("dynamics.lambda_rho"))
    coloured = draw_sweep(decays, "width.particles", ["nc1/train"]).to_dict()["spec"]["encoding"]["color"]
    assert coloured["title"] == "margin"


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
    assert draw_sparkline([0.0, 1.0, float("nan"), 1.0]) == " ▁ ▁"
    assert draw_sparkline([0.0]) == ""
    assert len(draw_sparkline([1.0] * 1000)) <= 41
