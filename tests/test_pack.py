"""Packs with runs that cannot be trained, that others train, or that a signal stops."""

import math
import os
import signal
import threading
import time

import pytest
from polars.testing import assert_frame_equal

from nc_sweeps.config import compute_signature
from nc_sweeps.interruption import InterruptedTraining
from nc_sweeps.pack import Pack
from nc_sweeps.run_spec import RunSpec
from nc_sweeps.store.leases import LeaseHolder
from nc_sweeps.store.run_folder import RunFolder
from nc_sweeps.training import ensembles
from tests.configs import tiny
from tests.doubles import SilentListener
from tests.processes import PATIENCE


def make_spec(sweep, *overrides):
    config = tiny(*overrides)
    return RunSpec(config, list(overrides), sweep / compute_signature(config))


def read_status(spec):
    summary = RunFolder(spec.directory).read_summary()
    return summary.status, summary.reason


def test_a_run_that_cannot_be_trained_fails_alone(tmp_path):
    good = [make_spec(tmp_path, f"seed={seed}") for seed in range(4)]
    too_large = make_spec(tmp_path, "compute.memory=0.001", "width.particles=13")
    values = Pack([*good[:2], too_large, *good[2:]], isolate=True).train(SilentListener())
    assert [read_status(one)[0] for one in good] == ["completed"] * 4
    assert read_status(too_large)[0] == "failed"
    assert "compute.memory=0.001: a run of 13 particles needs" in read_status(too_large)[1]
    assert values[2] == math.inf  # the worst: a sweeper that looks for the least must not take it
    assert all(math.isfinite(value) for value in values[:2] + values[3:])


def test_what_is_too_much_at_once_is_trained_in_halves(tmp_path, monkeypatch):
    """Torch's allocator seems to have no memory whenever more than two runs train at once."""
    whole = ensembles.FlowEnsemble.train
    sizes = []

    def train(ensemble, *arguments):
        sizes.append(len(ensemble.runs))
        if len(ensemble.runs) > 2:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        whole(ensemble, *arguments)

    monkeypatch.setattr(ensembles.FlowEnsemble, "train", train)
    specs = [make_spec(tmp_path, f"seed={seed}") for seed in range(5)]
    Pack(specs, isolate=True).train(SilentListener())
    assert [read_status(one)[0] for one in specs] == ["completed"] * 5
    assert sizes == [5, 2, 3, 1, 2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT])
def test_a_signal_saves_all_runs_and_they_go_on_as_if_it_had_not_come(tmp_path, number):
    overrides = ["dynamics.horizon=20000", "compute.checkpoint_seconds=1000"]
    whole = [make_spec(tmp_path / "whole", f"seed={seed}", *overrides) for seed in range(2)]
    Pack(whole).train(SilentListener())

    class Stop(SilentListener):
        has_sent = False

        def advance(self, work, metrics):
            if not self.has_sent:
                os.kill(os.getpid(), number)
            self.has_sent = True

    before = signal.getsignal(number)
    stopped = [make_spec(tmp_path / "stopped", f"seed={seed}", *overrides) for seed in range(2)]
    with pytest.raises(InterruptedTraining) as stop:
        Pack(stopped).train(Stop())
    assert stop.value.by == number
    assert signal.getsignal(number) is before
    for one in stopped:
        assert read_status(one)[0] == "running"
        assert (one.directory / "checkpoint.safetensors").exists()
    assert not list((tmp_path / "stopped").glob(".leases/*.json"))
    Pack(stopped).train(SilentListener())
    for one, other in zip(whole, stopped, strict=True):
        assert_frame_equal(
            RunFolder(one.directory).read_metrics().drop("seconds"),
            RunFolder(other.directory).read_metrics().drop("seconds"),
            check_exact=True,
        )


def test_what_another_process_trains_is_waited_for(tmp_path, capsys):
    one, other = make_spec(tmp_path, "seed=0"), make_spec(tmp_path, "seed=1")
    holder = LeaseHolder(tmp_path, 60.0)
    with holder:
        assert holder.claim(other.directory.name)
        waiting = threading.Thread(target=Pack([one, other]).train, args=(SilentListener(),))
        waiting.start()
        deadline = time.monotonic() + PATIENCE
        while not RunFolder(one.directory).is_begun or read_status(one)[0] != "completed":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(1.5)
        assert waiting.is_alive()
        assert not other.directory.exists()
        holder.release(other.directory.name)
    waiting.join(timeout=PATIENCE)
    assert read_status(other)[0] == "completed"
    assert "another process trains 1 of the runs" in capsys.readouterr().err
