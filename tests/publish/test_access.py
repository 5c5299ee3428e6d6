"""Access to the server of Weights & Biases."""

import os

import pytest

from nc_sweeps.publish.access import without_error_reports

NAME = "WANDB_ERROR_REPORTING"


@pytest.mark.parametrize(("before", "within"), [(None, "false"), ("true", "true")])
def test_error_reports_are_off_as_long_as_the_context_lasts_unless_the_user_wants_them(monkeypatch, before, within):
    monkeypatch.delenv(NAME, raising=False)
    if before:
        monkeypatch.setenv(NAME, before)
    with without_error_reports():
        assert os.environ[NAME] == within
    assert os.environ.get(NAME) == before
