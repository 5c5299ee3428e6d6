"""Leases between real processes."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from nc_sweeps.store.leases import TAKEN_OVER, LeaseHolder, find_holders, is_alive
from tests.processes import PATIENCE

HOLD = """
import sys, time
from pathlib import Path
from nc_sweeps.store.leases import LeaseHolder
with LeaseHolder(Path(sys.argv[1]), float(sys.argv[2])) as holder:
    print(holder.claim("run"), flush=True)
    time.sleep(3600)
"""


def hold(sweep, stale_after):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(sweep), str(stale_after)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "True\n"
    return process


def test_a_run_is_held_by_one_and_free_when_given_back(tmp_path):
    with LeaseHolder(tmp_path, 60.0) as first, LeaseHolder(tmp_path, 60.0) as second:
        assert first.claim("run")
        assert not second.claim("run")
        assert not first.claim("run")
        assert second.claim("other")
        assert find_holders(tmp_path) == {"run": first.path, "other": second.path}
        first.release("run")
        assert second.claim("run")


@pytest.mark.processes
def test_a_killed_process_of_this_machine_is_known_to_be_dead(tmp_path):
    process = hold(tmp_path, 3600)
    with LeaseHolder(tmp_path, 3600.0) as other:
        assert not other.claim("run")
        process.kill()
        process.wait()
        assert other.claim("run")


def move_elsewhere(holder):
    """Make a holder look as if it ran on a machine where it cannot be asked."""
    about = json.loads(holder.read_text())
    stamp = holder.stat().st_mtime
    holder.write_text(json.dumps(about | {"boot": "another"}))
    os.utime(holder, (stamp, stamp))


@pytest.mark.processes
def test_elsewhere_silence_means_death(tmp_path):
    process = hold(tmp_path, 3600)
    try:
        holder = find_holders(tmp_path)["run"]
        move_elsewhere(holder)
        stamp = holder.stat().st_mtime
        assert is_alive(holder, 60.0, stamp + 59)
        assert not is_alive(holder, 60.0, stamp + 61)
        with LeaseHolder(tmp_path, 60.0) as other:
            assert not other.claim("run")
            os.utime(holder, (stamp - 100, stamp - 100))
            assert other.claim("run")
    finally:
        process.kill()


@pytest.mark.processes
def test_who_was_stopped_and_lost_its_runs_ends_when_it_wakes(tmp_path):
    process = hold(tmp_path, 0.6)
    holder = find_holders(tmp_path)["run"]
    process.send_signal(signal.SIGSTOP)
    time.sleep(1.0)
    move_elsewhere(holder)
    with LeaseHolder(tmp_path, 0.6) as other:
        assert other.claim("run")
        process.send_signal(signal.SIGCONT)
        assert process.wait(timeout=PATIENCE) == TAKEN_OVER


def contend(sweep, barrier, runs, won):
    with LeaseHolder(sweep, 60.0) as other:
        barrier.wait()
        for run in range(runs):
            if other.claim(str(run)):
                won.put((run, os.getpid()))
        barrier.wait()


@pytest.mark.processes
@pytest.mark.parametrize("stale", [False, True])
def test_of_many_that_ask_at_once_one_wins(tmp_path, stale):
    context = multiprocessing.get_context("spawn")
    processes, runs = 3, 200
    if stale:  # all take over from somebody who died
        with LeaseHolder(tmp_path, 60.0) as dead:
            assert all(dead.claim(str(run)) for run in range(runs))
    barrier, won = context.Barrier(processes), context.Queue()
    children = [context.Process(target=contend, args=(tmp_path, barrier, runs, won)) for _ in range(processes)]
    for child in children:
        child.start()
    winners = [won.get(timeout=PATIENCE) for _ in range(runs)]
    for child in children:
        child.join()
    assert sorted(run for run, _ in winners) == list(range(runs))
    assert won.empty()
