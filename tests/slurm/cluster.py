r"""A SLURM cluster of four nodes on one machine, with accounting, GPUs and crashes.

``python -m tests.slurm.cluster`` brings one up, prints the environment in which ``sbatch``, ``squeue``, ``sacct`` and
submitit find it, and takes it down at Ctrl-C. In tests, the fixtures ``slurm`` and ``on_slurm`` give one.

All of SLURM's programs are real and run as root, with sockets, ports and state of their own in a temporary folder: a
SLURM, munge or MariaDB of the system is neither used nor disturbed. Each of them has a `keeper` that kills all
that it left when this process ends, however it ends.

The nodes f1…f4 have 4 CPUs, 4000 MB, 2 GPUs of type ``small`` and the feature ``fast`` each; the GPUs are device nodes
that nothing can compute on. Partitions:

========  ============  =======================================================
``main``  the default   never preempted
``low``   preemptible   requeued at the latest 30 seconds after a job of ``high`` wants its place
``high``                never preempted, preempts ``low``
========  ============  =======================================================

Names of nodes. Real clusters resolve them and jobs rely on that: ``MASTER_ADDR``, whether taken from
``SLURM_JOB_NODELIST`` by Lightning or set by a job script, is a node's name. No machine knows the names f1…f4, and with
them a rendezvous waits for ever. `Cluster.environment` therefore preloads nss_wrapper, which resolves names by a hosts
file of the cluster's own; jobs inherit it from their submission. Jobs with ``--export=NONE`` need
``MASTER_ADDR=127.0.0.1``.
"""

import ctypes
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from tests.slurm.configuration import ADDRESS, NODES, ClusterOptions, write_configuration

#: Programs that a cluster needs, and the Debian packages they come from.
PROGRAMS = {
    "mariadbd": "mariadb-server",
    "munged": "munge",
    "sbatch": "slurm-client",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "slurmdbd": "slurmdbd",
}
NSS_WRAPPER = "libnss_wrapper.so"

#: Seconds after which a daemon that does not answer is taken to hang, however busy the machine is.
_PATIENCE = 300.0

_KEEPER = Path(__file__).with_name("keeper.py")


def find_obstacle() -> str | None:
    """Return why no cluster can be started here; None where one can."""
    if os.geteuid() != 0:
        return "a SLURM cluster needs root: it makes device nodes"
    lacking = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    try:
        ctypes.CDLL(NSS_WRAPPER)
    except OSError:
        lacking.append("libnss-wrapper")
    return f"a SLURM cluster needs: apt-get install --no-install-recommends {' '.join(lacking)}" if lacking else None


class Cluster:
    """A running cluster, which stops at the end of the ``with`` block.

    Args:
        options: what tests may vary.

    Attributes:
        environment: variables with which a process uses this cluster.
        folder: configuration, state and the logs of all daemons.
    """

    def __init__(self, options: ClusterOptions = ClusterOptions()) -> None:  # noqa: B008 (it is frozen)
        if obstacle := find_obstacle():
            raise RuntimeError(obstacle)
        self._options = options
        self._keepers: dict[str, list[subprocess.Popen[bytes]]] = {}

    def __enter__(self) -> Self:
        # Wherever else temporary files go: the path of a socket, of each job step too, has 107 bytes at most.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        self.environment = {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "LD_PRELOAD": NSS_WRAPPER,
            "NSS_WRAPPER_HOSTS": str(self.folder / "hosts"),
        }
        try:
            self._ports = write_configuration(self.folder, self._options)
            self._start_accounting()
            self._launch("slurmctld", "slurmctld", "-D")
            for node in NODES:
                self._launch(node, "slurmd", "-D", "-N", node)
            self.wait_idle()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def run(self, *command: str) -> str:
        """Run a command on the cluster and return its standard output.

        Raises:
            CalledProcessError: the command fails; with its output as a note.
        """
        environment = os.environ | self.environment
        try:
            done = subprocess.run(
                command, env=environment, check=True, text=True, capture_output=True, timeout=_PATIENCE
            )
        except subprocess.CalledProcessError as error:
            error.add_note(error.stdout + error.stderr)
            raise
        return done.stdout

    def jobs(self) -> dict[str, str]:
        """Return the state of each job in the queue, array tasks one by one: ``{"7": "PENDING", "8_0": "RUNNING"}``."""
        lines = self.run("squeue", "--noheader", "--array", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)

    def nodes(self) -> dict[str, str]:
        """Return the state of each node: ``idle``, ``mixed``, ``down``, …; with ``*`` where it does not answer."""
        lines = self.run("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %T").splitlines()
        return dict(line.split() for line in lines)

    def crash(self, node: str) -> None:
        """Kill every process on a node at once. SLURM finds out for itself, or by `take_down`."""
        for keeper in self._keepers.pop(node, []):
            _stop(keeper)

    def kill_slurmd(self, node: str) -> None:
        """Kill only the daemon of a node, as if its network were broken; jobs on it go on."""
        for daemon in self._slurmds(node):
            daemon.kill()
            daemon.wait(_PATIENCE)

    def take_down(self, node: str) -> None:
        """Take a node down as an administrator does; its jobs lose it at once."""
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")

    def start(self, node: str) -> None:
        """Bring a node back after `crash`, `kill_slurmd` or `take_down`."""
        if not self._slurmds(node):
            self._launch(node, "slurmd", "-D", "-N", node)
            self.wait(lambda: bool(self._slurmds(node)))
        self.wait(lambda: self._is_up(node))

    def _is_up(self, node: str) -> bool:
        """Resume a node that is down; to resume one that has just come up by itself is an error, and tried again."""
        if self.nodes()[node].startswith("down"):
            self.run("scontrol", "update", f"nodename={node}", "state=resume")
        return True

    def cancel_all(self) -> None:
        """Cancel every job of the queue without the time that SLURM gives it to end."""
        self.run("scancel", "--user=root", "--state=RUNNING", "--full", "--signal=KILL")
        self.run("scancel", "--user=root")

    def wait_idle(self, seconds: float = _PATIENCE) -> None:
        """Wait until the queue is empty and every node answers and is free.

        Raises:
            TimeoutError: it takes longer.
        """
        self.wait(lambda: not self.jobs() and set(self.nodes().values()) == {"idle"}, seconds)

    def wait(self, condition: Callable[[], bool], seconds: float = _PATIENCE) -> None:
        """Wait until a condition holds.

        Raises:
            TimeoutError: it takes longer; with the end of every daemon's log.
        """
        end = time.monotonic() + seconds
        while not self._holds(condition):
            if time.monotonic() > end:
                logs = (f"{log.name}: {log.read_text()[-500:]}" for log in sorted(self.folder.glob("*.out")))
                raise TimeoutError("\n".join([f"waited {seconds} s in vain", *logs]))
            time.sleep(0.1)

    def _holds(self, condition: Callable[[], bool]) -> bool:
        """Return whether a condition holds; it does not while the controller is starting or overwhelmed."""
        try:
            return condition()
        except subprocess.CalledProcessError:
            return False

    def _start_accounting(self) -> None:
        folder = self.folder
        self._launch(
            "munged",
            "munged",
            "--foreground",
            "--force",  # only root needs to reach its socket
            f"--socket={folder}/munge.socket",
            f"--key-file={folder}/munge.key",
            f"--pid-file={folder}/munge.pid",
            f"--seed-file={folder}/munge.seed",
            f"--log-file={folder}/munged.log",
        )
        database = ("--no-defaults", "--user=root", f"--datadir={folder}/database")
        self.run("mariadb-install-db", *database, "--skip-test-db")
        self._launch(
            "mariadbd",
            "mariadbd",
            *database,
            f"--socket={folder}/mariadb.socket",
            f"--pid-file={folder}/mariadb.pid",
            f"--bind-address={ADDRESS}",
            f"--port={self._ports['mariadb']}",
            f"--init-file={folder}/init.sql",
            "--skip-name-resolve",
            "--innodb-log-file-size=4M",
        )
        self.wait(lambda: _is_listening(self._ports["mariadb"]))
        self._launch("slurmdbd", "slurmdbd", "-D")
        self.wait(lambda: _is_listening(self._ports["slurmdbd"]))

    def _launch(self, name: str, *command: str) -> None:
        environment = {"PATH": os.environ["PATH"], "SLURM_CONF": self.environment["SLURM_CONF"]}
        with open(self.folder / f"{name}.out", "ab") as log:
            keeper = subprocess.Popen(
                [sys.executable, str(_KEEPER), *command],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for this process
            )
        self._keepers.setdefault(name, []).append(keeper)

    def _slurmds(self, node: str) -> list[psutil.Process]:
        found = []
        for keeper in self._keepers.get(node, []):
            for child in psutil.Process(keeper.pid).children():
                with suppress(psutil.NoSuchProcess):  # it may end while it is looked at
                    if child.name() == "slurmd":
                        found.append(child)
        return found

    def _stop(self) -> None:
        for keepers in self._keepers.values():
            for keeper in keepers:
                _stop(keeper)
        shutil.rmtree(self.folder)


def _stop(keeper: subprocess.Popen[bytes]) -> None:
    assert keeper.stdin is not None
    keeper.stdin.close()
    keeper.wait()


def _is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((ADDRESS, port)) == 0


def main() -> None:
    """Keep a cluster until Ctrl-C."""
    with Cluster() as cluster:
        for name, value in cluster.environment.items():
            print(f"export {name}={shlex.quote(value)}")
        print(f"# Logs are in {cluster.folder}. Ctrl-C takes the cluster down.", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
