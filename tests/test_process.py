"""What the commands make of the process in which they find themselves."""

import os
import subprocess
import sys

import pytest

from nc_sweeps import cache
from nc_sweeps.errors import UserError
from nc_sweeps.process import prepare_command, prepare_process
from tests.processes import PATIENCE

_SHOW = (
    "from nc_sweeps.process import prepare_command; prepare_command(); import os, sys; "
    "print(sys.argv[1:], sys.flags.optimize, sys.getfilesystemencoding(), os.environ['OMP_WAIT_POLICY'])"
)


@pytest.fixture
def _own_environment(monkeypatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["nc-train"])
    monkeypatch.setattr(os, "environ", os.environ.copy())


@pytest.mark.usefixtures("_own_environment")
def test_threads_wait_without_spinning_unless_the_user_says_how():
    prepare_process()
    assert os.environ.pop("OMP_WAIT_POLICY") == "passive"
    os.environ["GOMP_SPINCOUNT"] = "1000"
    prepare_process()
    assert "OMP_WAIT_POLICY" not in os.environ


@pytest.mark.usefixtures("_own_environment")
def test_a_user_without_a_home_gets_one_that_nobody_can_write(monkeypatch):
    def raise_unknown(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delitem(os.environ, "HOME", raising=False)
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.expanduser", raise_unknown)
        prepare_process()
    assert os.environ["HOME"] == "/nonexistent"


@pytest.mark.usefixtures("_own_environment")
def test_an_argument_that_is_not_text_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["nc-train", os.fsdecode(b"name=gr\xf6sse")])
    with pytest.raises(UserError, match=r"'name=gr\\xf6sse': not text in UTF-8"):
        prepare_command()


@pytest.mark.usefixtures("_own_environment")
def test_a_working_directory_that_is_gone_is_said_to_be(monkeypatch, tmp_path):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(UserError, match="working directory is gone"):
        prepare_command()


@pytest.mark.processes
@pytest.mark.parametrize(
    ("options", "variables"),
    [(["-OO"], {}), ([], {"PYTHONOPTIMIZE": "1"}), ([], {"LC_ALL": "POSIX", "PYTHONUTF8": "0"})],
)
def test_a_python_without_assertions_or_utf_8_starts_again_with_both(options, variables):
    command = [sys.executable, *options, "-c", _SHOW, "größe", "-O"]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | variables
    done = subprocess.run(
        command, env=environment, capture_output=True, encoding="utf-8", timeout=PATIENCE, check=False
    )
    assert done.stdout == "['größe', '-O'] 0 utf-8 passive\n", done.stderr


def test_a_cache_on_a_full_disk_is_replaced_by_a_folder_of_the_process(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache, "bytes", raise_full, raising=False)
    assert tmp_path not in cache.find_folder().parents


def raise_full(size: int) -> bytes:
    raise OSError(28, f"no space for {size} bytes")


@pytest.mark.processes
def test_paths_are_relative_to_where_they_were_typed_whatever_hydra_does(run_command, tmp_path, mnist_dir):
    (tmp_path / "mine").symlink_to(mnist_dir)
    done = run_command(
        "dataset=mnist", "data_dir=mine", "dataset.train_per_class=4", "dataset.test_per_class=4",
        "width.particles=8", "dynamics.horizon=1", "hydra.job.chdir=true",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("results/sweep/*/summary.json"))) == 1
