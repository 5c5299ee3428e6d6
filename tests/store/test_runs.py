"""What is written of a run, read back."""

import json
import math
import os
import stat
from pathlib import Path

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

import nc_sweeps
from nc_sweeps.config import compute_signature
from nc_sweeps.errors import StoreError
from nc_sweeps.metrics.catalogue import METRICS
from nc_sweeps.store import files
from nc_sweeps.store.checkpoint import Checkpoint
from nc_sweeps.store.runs import RunStore
from tests.configs import config_of, tiny

STATE = {
    "W": torch.randn(3, 2),
    "U": torch.randn(4, 5, dtype=torch.float64),
    "A": torch.randn(4, 3),
}


#: Texts, and some that a reader of YAML takes for something else.
TEXTS = st.text("abc_é .:-#'\"[]{}<>&*!%@`,?|=~", max_size=8) | st.sampled_from(
    ["1e3", "0x1f", "1_000", "12:30", "y", "No", "on", "null", "~", ".inf", "nan", "1.5", "2026-11-26", "=", "<<"]
)


def make_row(step, **metrics):
    return {"step": step, "time": 0.5 * step, "epoch": float(step), "seconds": 0.1 * step, **metrics}


def make_store(directory: Path, config=None, steps=(0, 1, 4)) -> RunStore:
    """Return the store of a run that has some rows."""
    store = RunStore(directory, config or tiny(), ["seed=0"])
    for step in steps:
        store.append(make_row(step, **{"nc1/train": 1 / (1 + step), "certificate/tightness": 0.1 * step}))
        store.flush()
    return store


def test_a_run_is_readable_whenever_its_rows_are_written(tmp_path):
    store = RunStore(tmp_path / "run", tiny(), ["seed=0", "width.particles=12"])
    assert store.status is None
    assert not store.directory.exists()
    for count, step in enumerate((0, 1, 4), start=1):
        store.append(make_row(step, **{"nc1/train": 1.0}))
        store.flush()
        assert store.folder.read_metrics()["step"].to_list() == [0, 1, 4][:count]
        assert store.status == "running"
    store.finish("completed")
    assert store.status == "completed"
    assert {path.name for path in store.directory.iterdir()} == {
        "config.yaml",
        "overrides.yaml",
        "metrics.parquet",
        "summary.json",
    }


def test_a_summary_says_how_a_run_ended(tmp_path):
    config = tiny()
    store = make_store(tmp_path / "run", config)
    store.append(make_row(9, **{"nc1/train": math.nan, "certificate/tightness": 0.2}))
    store.finish("diverged", "too fast")
    summary = json.loads((store.directory / "summary.json").read_text())
    assert (summary["status"], summary["reason"]) == ("diverged", "too fast")
    assert summary["signature"] == compute_signature(config)
    assert summary["progress"] == {"steps": None, "step": 9, "time": 4.5, "epoch": 9.0, "seconds": pytest.approx(0.9)}
    assert summary["metrics"]["nc1/train"] == {
        "first": 1.0,
        "last": None,
        "best": 0.2,
        "best_step": 4,
        "undefined": METRICS["nc1/train"].undefined,
    }
    assert summary["metrics"]["certificate/tightness"]["best_step"] == 4  # the largest, not the smallest
    assert summary["environment"]["versions"]["torch"] == torch.__version__.split("+")[0]
    commit = summary["environment"]["git_commit"]
    assert commit is None or len(commit.removesuffix("-dirty")) == 40


def test_a_reader_never_sees_half_a_file(tmp_path, monkeypatch):
    """Interrupted anywhere in a write, the old file stays whole and no temporary file stays behind."""
    store = make_store(tmp_path / "run")
    before = {path.name: path.read_bytes() for path in store.directory.iterdir()}

    def interrupt(*_):
        raise KeyboardInterrupt

    for stage in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(files.os, stage, interrupt)
            with pytest.raises(KeyboardInterrupt):
                store.save({"W": torch.ones(3)}, 4)
            store.append(make_row(5, **{"nc1/train": 0.0, "certificate/tightness": 0.0}))
            with pytest.raises(KeyboardInterrupt):
                store.flush()
        assert {path.name: path.read_bytes() for path in store.directory.iterdir()} == before


def test_a_new_file_has_the_permissions_that_the_user_wants(tmp_path):
    before = os.umask(0o027)
    try:
        files.write(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_resume_drops_rows_that_are_ahead_of_the_checkpoint(tmp_path):
    state = STATE
    store = make_store(tmp_path / "run")
    assert RunStore(tmp_path / "run", tiny(), []).resume() == Checkpoint(step=0, state=None, seconds=0.0)
    store.save(state, 2)
    again = RunStore(tmp_path / "run", tiny(), [])
    checkpoint = again.resume()
    assert (checkpoint.step, checkpoint.seconds) == (2, 0.1)
    assert [kept["step"] for kept in again.rows] == [0, 1]
    assert checkpoint.state.keys() == state.keys()
    assert all(torch.equal(checkpoint.state[name], value) for name, value in state.items())
    again.append(make_row(3, **{"nc1/train": 0.5, "certificate/tightness": 0.2}))
    again.save(state, 3)
    assert again.folder.read_metrics()["step"].to_list() == [0, 1, 3]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("checkpoint.safetensors", b"\x80\x04not a checkpoint"),
        ("checkpoint.safetensors", b""),
        ("metrics.parquet", b"PAR1"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, file, content):
    store = make_store(tmp_path / "run")
    store.save(STATE, 4)
    (store.directory / file).write_bytes(content)
    with pytest.raises(StoreError, match=file) as info:
        RunStore(tmp_path / "run", tiny(), []).resume()
    assert "\n" not in str(info.value)


def test_a_damaged_summary_is_named(tmp_path):
    make_store(tmp_path / "run")
    for content in ("{", "[]", '{"status": "running"}'):
        (tmp_path / "run" / "summary.json").write_text(content)
        with pytest.raises(StoreError, match=r"summary\.json"):
            _ = RunStore(tmp_path / "run", tiny(), []).status


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    make_store(tmp_path / "run").save(STATE, 4)
    with pytest.raises(StoreError, match="checkpoint of another run"):
        RunStore(tmp_path / "run", tiny("seed=1"), []).resume()


def test_a_sweep_is_loaded_as_one_table(tmp_path):
    configs = [tiny("seed=1"), tiny("seed=2", "separation.margin=0.1"), config_of("dataset=digits")]
    for config in configs:
        make_store(tmp_path / compute_signature(config), config)
    table = nc_sweeps.load_sweep(tmp_path)
    assert table.height == 9
    assert table.columns[-6:] == ["step", "time", "epoch", "seconds", "nc1/train", "certificate/tightness"]
    chosen = table.filter(pl.col("separation.margin") == 0.1)
    assert chosen["seed"].unique().to_list() == [2]
    assert chosen["nc1/train"].to_list() == [1, 0.5, 0.2]
    assert set(table["dataset.name"]) == {"separable", "digits"}
    assert table.filter(pl.col("dataset.name") == "digits")["dataset.margin"].is_null().all()
    assert set(table["signature"]) == {compute_signature(config) for config in configs}


def test_a_folder_of_another_run_is_refused(tmp_path):
    make_store(tmp_path / "run")
    with pytest.raises(StoreError, match=r"holds the run .*; give this one another folder"):
        _ = RunStore(tmp_path / "run", tiny("seed=1"), []).status


def test_the_last_value_of_a_diverged_run_is_the_worst(tmp_path):
    store = make_store(tmp_path / "run")
    store.finish("completed")
    assert store.folder.last_value("nc1/train") == 0.2
    store.finish("diverged", "too fast")
    assert store.folder.last_value("nc1/train") == math.inf
    assert store.folder.last_value("certificate/tightness") == -math.inf


def test_a_folder_with_brackets_is_read(tmp_path):
    store = make_store(tmp_path / "x[1]" / "run")
    assert store.folder.read_metrics().height == 3
    assert nc_sweeps.load_sweep(tmp_path / "x[1]").height == 3


def test_load_sweep_of_nothing_says_so(tmp_path):
    with pytest.raises(StoreError, match="no runs here"):
        nc_sweeps.load_sweep(tmp_path)


@given(
    st.dictionaries(
        TEXTS, TEXTS | st.lists(TEXTS | st.floats(allow_nan=False) | st.integers() | st.booleans() | st.none())
    )
)
def test_yaml_is_read_as_the_same_value_by_everybody(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "value.yaml"
    path.write_bytes(files.dump_yaml(value))
    assert files.read_yaml(path) == value
    assert OmegaConf.to_container(OmegaConf.load(path)) == value
