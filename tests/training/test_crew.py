"""A crew whose followers its leader starts: what ends whom, and how the leader says so."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

from nc_sweeps.errors import ConfigError
from nc_sweeps.interruption import Interruption
from nc_sweeps.training.crew import Crew, CrewError
from tests.configs import tiny
from tests.doubles import SilentListener
from tests.processes import PATIENCE


@pytest.fixture
def pair():
    """A crew of this process and one follower."""
    return Crew.join(tiny("compute.devices=2").compute)


def wait_for_the_end_of(process: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while psutil.pid_exists(process) and psutil.Process(process).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.processes
def test_a_lone_process_leads_without_torch():
    code = (
        "import sys; from nc_sweeps.training.crew import Crew; from nc_sweeps.config import ComputeConfig\n"
        "with Crew.join(ComputeConfig('cpu', 1, 1, '32-true', 1, None, 1.0, 1.0)) as crew:\n"
        "    sys.exit(not crew.is_leader or crew.dismiss(3) != 3 or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_followers_that_have_nothing_to_do_end_with_the_context(pair):
    with pair as crew:
        assert crew.is_leader
        assert crew.dismiss([1.0]) == [1.0]
    assert crew._followers[0].returncode is not None


def lead(crew: Crew, ending: signal.Signals, error: BaseException | None = None) -> None:
    """End the follower by a signal; then raise an error, or train."""
    with crew:
        crew._followers[0].send_signal(ending)
        if error is not None:
            raise error
        crew.train(None, Interruption(), SilentListener())


def test_a_follower_that_dies_before_training_is_named(pair):
    with pytest.raises(CrewError, match=r"compute.devices=2: the process of rank 1 was killed by SIGKILL"):
        lead(pair, signal.SIGKILL)


def test_a_follower_that_dies_during_training_is_named_instead_of_the_broken_connection(pair):
    with pytest.raises(CrewError, match=r"rank 1 was killed by SIGTERM; the same command goes on from"):
        lead(pair, signal.SIGTERM, RuntimeError("Connection closed by peer"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, ConfigError])
def test_an_end_that_is_the_leaders_own_is_raised_as_it_is(pair, error):
    with pytest.raises(error):
        lead(pair, signal.SIGKILL, error())
    assert pair._followers[0].returncode is not None


@pytest.mark.processes
def test_followers_end_with_a_leader_that_is_killed():
    code = (
        "import os, psutil; from nc_sweeps.training.crew import Crew; from tests.configs import tiny\n"
        "with Crew.join(tiny('compute.devices=2').compute):\n"
        "    print(psutil.Process().children()[0].pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)"
    )
    leader = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False)
    assert leader.returncode == -signal.SIGKILL
    wait_for_the_end_of(int(leader.stdout))
