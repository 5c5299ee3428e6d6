"""The copy of the code that jobs run, where it cannot be written."""

import errno
import shutil

import pytest
from nc_launch.backends import LaunchError
from nc_launch.jobs import submit
from nc_launch.settings import LaunchSettings
from nc_launch.submission import Origin

from nc_sweeps.run_spec import RunSpec
from nc_sweeps.store import manifest
from tests.configs import tiny


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def fill(original, copy, **options):
        files = [(f"{original}/{name}", f"{copy}/{name}") for name in ("a.py", "b.py")]
        raise shutil.Error([(a, b, str(OSError(errno.ENOSPC, "No space left", a, None, b))) for a, b in files])

    monkeypatch.setattr(shutil, "copytree", fill)
    sweep = tmp_path / "question"
    spec = RunSpec(tiny(), [], sweep / "run")
    path = manifest.write(sweep, [spec], {}, {})
    with pytest.raises(LaunchError, match=r"code/nc_sweeps/a\.py: cannot be written \(No space left\)$"):
        submit(Origin("packed", LaunchSettings()), path, [[spec]])
    assert list(tmp_path.iterdir()) == []
