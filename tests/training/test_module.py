import pytest
import pytorch_lightning as pl
import torch

from nc_sweeps.config.schema import PRECISIONS
from nc_sweeps.data import load
from nc_sweeps.training.ensembles import FlowEnsemble, LoadedRun
from tests.configs import tiny
from tests.doubles import MemoryRecord


@pytest.mark.filterwarnings("ignore:The `srun` command")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_lightning_leaves_the_numbers_of_the_flow_in_float64(precision):
    config = tiny(f"compute.precision={precision}")
    module = FlowEnsemble([LoadedRun(config, load(config.dataset), MemoryRecord())])._build_module()
    trainer = pl.Trainer(
        accelerator="cpu", precision=precision, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    module = trainer.strategy.precision_plugin.convert_module(module)
    assert {Z.dtype for Z in module.flow.law.buffers()} == {module.stage_one_distance.dtype} == {torch.float64}
    assert module.flow.seeds.dtype == module.flow.head_start.dtype == torch.int64
    assert module.networks.U.dtype == (torch.float64 if precision == "64-true" else torch.float32)
