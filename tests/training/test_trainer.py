"""Training leaves the process, which may be somebody else's, as it found it."""

import logging
import warnings
from dataclasses import replace

import pytest
import torch

from nc_sweeps.errors import ConfigError
from nc_sweeps.training.trainer import open_trainer
from tests.configs import tiny


def settings_of_the_process():
    return torch.get_num_threads(), logging.getLogger("pytorch_lightning").level, list(warnings.filters)


def test_threads_and_what_lightning_says_are_as_before_when_training_is_done():
    before = settings_of_the_process()
    compute = tiny(f"compute.threads={before[0] + 2}").compute
    with open_trainer(compute, 0, []):
        threads, level, _ = settings_of_the_process()
        assert threads == before[0] + 2
        assert level == logging.WARNING
        warnings.warn_explicit("advice on data loaders", UserWarning, "", 0, module="pytorch_lightning.trainer")
    assert settings_of_the_process() == before


def test_they_are_as_before_when_training_fails():
    before = settings_of_the_process()
    compute = replace(tiny("compute.threads=3").compute, accelerator="abacus")
    with pytest.raises(ConfigError, match=r"compute\.accelerator=abacus"), open_trainer(compute, 0, []):
        pass
    assert settings_of_the_process() == before
