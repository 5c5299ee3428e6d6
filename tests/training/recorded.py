"""Training with records that stay in memory."""

from nc_sweeps.data import load
from nc_sweeps.training.ensembles import FlowEnsemble, LoadedRun
from tests.doubles import MemoryRecord


def train(*configs):
    records = [MemoryRecord() for _ in configs]
    FlowEnsemble([LoadedRun(c, load(c.dataset), r) for c, r in zip(configs, records, strict=True)]).train()
    return records
