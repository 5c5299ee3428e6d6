"""The division of runs into packs, and of packs among jobs."""

import shlex
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nc_launch.backends import LocalBackend, SlurmBackend
from nc_launch.plan import pack_for_one_worker
from nc_launch.settings import LaunchSettings, SlurmSettings
from nc_launch.task import Task
from submitit import LocalExecutor

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


@pytest.mark.parametrize(
    ("visible", "workers"),
    [
        ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6,GPU-1a", 2),
        ("MIG-GPU-89/1/0, MIG-1fd0 ,MIG-2", 3),
        (" 2 , 0 ", 2),
        ("1,1,0", 2),
        ("0,-1,1", 1),  # CUDA takes what stands before a name of no device
        ("-1", 1),
        ("", 1),
        ("none", 1),
    ],
)
def test_each_visible_gpu_has_a_worker_however_it_is_named(monkeypatch, visible, workers):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert LocalBackend(LaunchSettings()).packs_at_once == workers


def test_a_worker_sees_its_gpu_by_the_name_that_was_given(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-89,GPU-12,GPU-34,GPU-56")
    commands = []
    job = SimpleNamespace(job_id="7")
    monkeypatch.setattr(LocalExecutor, "submit", lambda executor, _: commands.append(executor.python) or job)
    backend = LocalBackend(LaunchSettings(devices=2))
    backend.start([Task(tmp_path, (0,)), Task(tmp_path, (1,))], tmp_path / "logs", tmp_path / "a code")
    seen = [shlex.split(command)[:3] for command in commands]
    assert [words[2] for words in seen] == ["CUDA_VISIBLE_DEVICES=GPU-89,GPU-12", "CUDA_VISIBLE_DEVICES=GPU-34,GPU-56"]
    assert seen[0][:2] == ["/usr/bin/env", f"PYTHONPATH={tmp_path}/a code"]


def test_a_device_has_one_worker_and_a_cluster_a_process_for_each_pack(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    here = LocalBackend(LaunchSettings())
    assert here.assign_packs(range(5)) == [(0, 2, 4), (1, 3)]
    assert here.assign_packs([3]) == [(3,)]
    assert LocalBackend(LaunchSettings(devices=2)).assign_packs(range(3)) == [(0, 1, 2)]
    cluster = SlurmSettings(gpus_per_node=2)
    assert SlurmBackend(cluster).assign_packs(range(5)) == [(0, 1), (2, 3), (4,)]
    assert SlurmBackend(replace(cluster, devices=2)).assign_packs(range(2)) == [(0,), (1,)]
