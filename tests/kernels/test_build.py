"""Where the compiled code comes from, and what happens where it cannot be had."""

import ctypes
import os
import stat
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from nc_sweeps import cache
from nc_sweeps.kernels import build
from tests.configs import TINY


def rows(folder: Path) -> pl.DataFrame:
    (path,) = folder.glob("results/sweep/*/metrics.parquet")
    return pl.read_parquet(path).drop("seconds")


def test_without_a_compiler_training_says_so_once_and_gives_the_same_numbers(run_command, tmp_path):
    arguments = [*TINY, "compute.precision=64-true", "dynamics=noisy_sgd", "dynamics.batch_size=7"]
    arguments += ["dynamics.horizon_unit=steps", "dynamics.horizon=30"]
    done = run_command(*arguments, CXX="no-such-compiler", XDG_CACHE_HOME=str(tmp_path / "empty"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("many times slower: no no-such-compiler; install g++ or name a compiler in $CXX") == 1
    plain = rows(tmp_path)
    done = run_command(*arguments, "output_dir=compiled/results")
    assert done.returncode == 0, done.stderr
    assert "no compiled step" not in done.stderr
    # 30 steps of float64, whose sums are taken in another order.
    assert_frame_equal(rows(tmp_path / "compiled"), plain, rel_tol=1e-9, abs_tol=1e-12)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "nc-sweeps"


def compiler_that(does: str, folder: Path) -> str:
    path = folder / "compiler"
    path.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo 1.0; exit; fi\n{does}\n')
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return str(path)


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(own_cache, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", compiler_that("echo 'flow.cpp:1: no such thing' >&2; exit 1", tmp_path))
    with pytest.raises(build.BuildError, match=r"flow\.cpp:1: no such thing"):
        build._build()
    assert list(own_cache.iterdir()) == []


def test_what_is_built_is_kept(own_cache, tmp_path, monkeypatch, capsys):
    counted = tmp_path / "calls"
    monkeypatch.setenv(
        "CXX", compiler_that(f'echo >> {counted}\nwhile [ "$1" != -o ]; do shift; done; touch "$2"', tmp_path)
    )
    first, second = build._build(), build._build()
    assert first == second
    assert [path.name for path in own_cache.iterdir()] == [first.name]
    assert len(counted.read_text().splitlines()) == 1
    assert capsys.readouterr().err.count("compiling the step") == 1
    monkeypatch.setattr(build, "_describe_cpu", lambda: "another one")
    assert build._build() != first


@pytest.mark.skipif(os.name != "posix", reason="needs a folder that cannot be made")
def test_a_cache_that_cannot_be_written_is_replaced_by_a_folder_of_the_process(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    folder = cache.find_folder()
    assert folder.is_dir()
    assert tmp_path not in folder.parents


def test_a_folder_that_holds_no_programs_is_no_obstacle(own_cache, tmp_path, monkeypatch):
    loaded, library = [], ctypes.CDLL(None)

    def load(path):
        if str(own_cache) in path:
            raise OSError(f"{path}: failed to map segment from shared object")
        loaded.append(Path(path).read_bytes())
        return library

    own_cache.mkdir(parents=True)
    (own_cache / "flow.so").write_bytes(b"code")
    monkeypatch.setattr(build.ctypes, "CDLL", load)
    assert build._load(own_cache / "flow.so") is library
    assert loaded == [b"code"]


def test_the_compiler_may_be_named_with_options(own_cache, tmp_path, monkeypatch):
    compiler = compiler_that('[ "$1" = -mine ] || exit 1; while [ "$1" != -o ]; do shift; done; touch "$2"', tmp_path)
    (tmp_path / "compiler").write_text(Path(compiler).read_text().replace('"$1" = --version', '"$2" = --version'))
    monkeypatch.setenv("CXX", f"{compiler} -mine")
    assert build._build().parent == own_cache


def test_a_compiler_that_makes_nothing_is_said_to(own_cache, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "true")
    assert build.load_library.__wrapped__() is None
    assert "true makes no library; name another compiler in $CXX" in capsys.readouterr().err
