"""What a command leaves of a sweep of which it trains nothing."""

from nc_sweeps.run_spec import RunSpec
from nc_sweeps.store import manifest
from nc_sweeps.store.taking_back import FolderBefore
from tests.configs import tiny


def test_a_command_that_begins_nothing_leaves_no_folder(tmp_path):
    sweep = tmp_path / "results" / "question"
    before = FolderBefore(sweep)
    sweep.mkdir(parents=True)
    (sweep / "multirun.yaml").touch()
    before.take_back()
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_before_stays(tmp_path):
    (tmp_path / "multirun.yaml").write_text("of the first command")
    (tmp_path / "empty").mkdir()
    before = FolderBefore(tmp_path)
    (tmp_path / "multirun.yaml").write_text("of a dry run")
    before.take_back()
    assert (tmp_path / "multirun.yaml").read_text() == "of the first command"
    assert (tmp_path / "empty").is_dir()


def test_what_a_command_with_runs_writes_stays(tmp_path):
    sweep = tmp_path / "question"
    before = FolderBefore(sweep)
    manifest.write(sweep, [RunSpec(tiny(), [], sweep / "run")], {}, {})
    (sweep / "multirun.yaml").touch()
    before.take_back()
    assert (sweep / "multirun.yaml").exists()
