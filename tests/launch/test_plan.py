"""The division of runs into packs, and of packs among jobs."""

from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from nc_launch.backends import LocalBackend, SlurmBackend
from nc_launch.plan import pack_for_one_worker
from nc_launch.settings import LaunchSettings, SlurmSettings

from nc_sweeps.config import compute_ensemble_key
from nc_sweeps.run_spec import RunSpec
from tests.configs import tiny

WIDTHS = {width: tiny(f"width.particles={width}") for width in (12, 24, 48)}


@given(st.lists(st.sampled_from(sorted(WIDTHS)), min_size=1, max_size=12), st.none() | st.integers(1, 5))
def test_a_single_worker_gets_every_run_once_and_shapes_together(widths, most):
    specs = [RunSpec(WIDTHS[width], [], Path(str(number))) for number, width in enumerate(widths)]
    packs = pack_for_one_worker(specs, most)
    in_order = list(chain.from_iterable(packs))
    assert sorted(int(spec.directory.name) for spec in in_order) == list(range(len(specs)))
    assert max(map(len, packs)) == min(most or len(specs), len(specs))
    shapes = [compute_ensemble_key(spec.config) for spec in in_order]
    changes = sum(a != b for a, b in pairwise(shapes))
    assert changes == len(set(shapes)) - 1


def test_a_device_has_one_worker_and_a_cluster_a_process_for_each_pack(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    here = LocalBackend(LaunchSettings())
    assert here.assign_packs(range(5)) == [(0, 2, 4), (1, 3)]
    assert here.assign_packs([3]) == [(3,)]
    assert LocalBackend(LaunchSettings(devices=2)).assign_packs(range(3)) == [(0, 1, 2)]
    cluster = SlurmSettings(gpus_per_node=2)
    assert SlurmBackend(cluster).assign_packs(range(5)) == [(0, 1), (2, 3), (4,)]
    assert SlurmBackend(replace(cluster, devices=2)).assign_packs(range(2)) == [(0,), (1,)]
