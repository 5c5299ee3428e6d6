"""The wheel: built, installed in a clean environment and run from an empty directory."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.configs import TINY
from tests.processes import PATIENCE

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parent.parent


def test_the_wheel_is_whole(tmp_path):
    source = tmp_path / "source"
    parts = ("conf", "launch", "nc_sweeps")
    ignore = shutil.ignore_patterns("__pycache__")
    for part in parts:
        shutil.copytree(ROOT / part, source / part, ignore=ignore)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    build = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path / "dist"),
        str(source),
    ]
    subprocess.run(build, check=True, capture_output=True, timeout=PATIENCE)
    (wheel,) = (tmp_path / "dist").glob("*.whl")

    # The dependencies are taken from the environment of the tests, which .pth files of it do not reach: the editable
    # install is out of sight.
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=PATIENCE)

    empty = tmp_path / "empty"
    empty.mkdir()
    command = [str(environment / "bin" / "python"), "-m", "nc_sweeps", "-m", *TINY, "hydra/launcher=packed", "seed=0,1"]
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=empty, env=clean, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    assert "no compiled step" not in done.stderr
    summaries = [json.loads(path.read_text()) for path in empty.glob("results/sweep/*/summary.json")]
    assert [summary["status"] for summary in summaries] == ["completed"] * 2
    assert {summary["environment"]["git_commit"] for summary in summaries} == {None}  # it lies in no checkout
