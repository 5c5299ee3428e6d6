"""Access to the server of Weights & Biases."""

import os
from pathlib import Path

import pytest
import wandb

from nc_sweeps.errors import UserError
from nc_sweeps.publish.access import check_environment, is_disabled, keep_to_itself
from nc_sweeps.publish.companion import publish_meanwhile
from nc_sweeps.publish.weights_and_biases import PublishingError, translate_errors
from nc_sweeps.run_spec import RunSpec
from tests.configs import tiny

NAME = "WANDB_ERROR_REPORTING"


@pytest.mark.parametrize(("before", "within"), [(None, "false"), ("true", "true")])
def test_error_reports_are_off_as_long_as_the_context_lasts_unless_the_user_wants_them(monkeypatch, before, within):
    monkeypatch.delenv(NAME, raising=False)
    if before:
        monkeypatch.setenv(NAME, before)
    with keep_to_itself():
        assert os.environ[NAME] == within
    assert os.environ.get(NAME) == before


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [("WANDB_MODE", "bogus", "online, offline, disabled"), ("WANDB_BASE_URL", "wandb.example", "an address")],
)
def test_a_variable_that_wandb_does_not_know_is_refused(monkeypatch, name, value, right):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=rf"^{name}={value}: must be .*{right}"):
        check_environment()


def test_a_setting_that_wandb_refuses_is_named_by_its_variable(monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "foo")
    with (
        pytest.raises(PublishingError, match=r"^W&B: WANDB_SILENT=foo: Input should be a valid boolean"),
        translate_errors(),
    ):
        wandb.Settings(silent="foo")


@pytest.mark.parametrize("mode", ["auto", "offline"])
def test_nothing_is_published_where_wandb_is_disabled_unless_the_run_says_how(monkeypatch, mode):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert is_disabled(mode) == (mode == "auto")


def test_a_disabled_wandb_starts_no_companion_and_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr("subprocess.Popen", None)
    with publish_meanwhile([RunSpec(tiny("tracking=wandb"), [], tmp_path)]):
        pass
    assert capsys.readouterr().err == "W&B: nothing is published, as WANDB_MODE=disabled\n"


def test_wandb_does_without_a_home_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with keep_to_itself():
        assert Path(os.environ["XDG_CACHE_HOME"]).is_dir()
    assert os.environ["XDG_CACHE_HOME"] == str(tmp_path / "file")
    assert "WANDB_DATA_DIR" not in os.environ
