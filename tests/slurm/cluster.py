r"""A SLURM cluster of four nodes on one machine, with accounting, GPUs and crashes.

``python -m tests.slurm.cluster`` brings one up, prints the environment in which ``sbatch``, ``squeue``, ``sacct`` and
submitit find it, and takes it down at Ctrl-C. In tests, the fixtures ``slurm`` and ``on_slurm`` give one.

All of SLURM's programs are real and run as root, with sockets, ports and state of their own in a temporary folder: a
SLURM, munge or MariaDB of the system is neither used nor disturbed. Each of them has a `keeper` that kills all it left
when this process ends, however it ends.

The nodes f1…f4 have 4 CPUs, 4000 MB and 2 GPUs each; the GPUs are device nodes that nothing can compute on. Partitions:

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
import random
import secrets
import shlex
import shutil
import signal
import socket
import stat
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

NODES = ("f1", "f2", "f3", "f4")

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
_ADDRESS = "127.0.0.1"
_DATABASE_USER = "slurm"

_SLURM_CONF = """\
ClusterName=tests
SlurmctldHost={host}({address})
SlurmctldPort={slurmctld}
SlurmctldPidFile={folder}/slurmctld.pid
{preemption}
SlurmUser=root
SlurmdUser=root
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdSpoolDir={folder}/spool.%n
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
AuthType=auth/munge
# Credentials that expire soon bring requeued jobs back soon.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={address}
AccountingStoragePort={slurmdbd}
AccountingStoragePass={folder}/munge.socket
AccountingStorageTRES=gres/gpu
JobRequeue={requeue:d}
MaxArraySize={max_array_size}
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
# On a busy machine a launch may fail: such a job is tried again and not held.
SchedulerParameters=batch_sched_delay=0,bf_interval=2,sched_min_interval=100000,nohold_on_prolog_fail
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=10
# A node that does not answer is found out soon.
SlurmdTimeout=10
TCPTimeout=1
MessageTimeout=10
# A node that comes back is used again, whatever it was down for.
ReturnToService=2
GresTypes=gpu
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=OFF
PartitionName=low Nodes=ALL MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
PartitionName=high Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""

_SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost={host}
DbdAddr={address}
DbdPort={slurmdbd}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost={address}
StoragePort={mariadb}
StorageUser={user}
StoragePass={password}
StorageLoc=slurm_acct_db
"""


def missing() -> str | None:
    """Why no cluster can be started here; None where one can."""
    if os.geteuid() != 0:
        return "a SLURM cluster needs root: it makes device nodes"
    lacking = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    try:
        ctypes.CDLL(NSS_WRAPPER)
    except OSError:
        lacking.append("libnss-wrapper")
    return f"a SLURM cluster needs: apt-get install --no-install-recommends {' '.join(lacking)}" if lacking else None


class Cluster:
    """A running cluster; stops with the ``with`` block.

    Args:
        max_array_size: One more than the largest index of a job array.
        requeue: Whether jobs that lose their node are requeued unless they say otherwise (``JobRequeue``).
        preempt_signal: Whether preempted jobs receive the signal they asked for (``preempt_send_user_signal``), with
            which submitit checkpoints, or SIGTERM only.

    Attributes:
        environment: What to add to a process's environment for it to use this cluster.
        folder: Configuration, state and the logs of all daemons.
    """

    def __init__(self, *, max_array_size: int = 1001, requeue: bool = True, preempt_signal: bool = True) -> None:
        if reason := missing():
            raise RuntimeError(reason)
        self._max_array_size, self._requeue, self._preempt_signal = max_array_size, requeue, preempt_signal
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
            self._configure()
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
        """Standard output of a command on the cluster.

        Raises:
            CalledProcessError: with what the command said.
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
        """States of the jobs in the queue by id, array tasks one by one: ``{"7": "PENDING", "8_0": "RUNNING"}``."""
        lines = self.run("squeue", "--noheader", "--array", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)

    def nodes(self) -> dict[str, str]:
        """States of the nodes: ``idle``, ``mixed``, ``allocated``, ``down``, …; with ``*`` where a node is silent."""
        lines = self.run("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %T").splitlines()
        return dict(line.split() for line in lines)

    def crash(self, node: str) -> None:
        """The node fails: every process on it is killed at once. SLURM finds out for itself, or by `down`."""
        for keeper in self._keepers.pop(node, []):
            _stop(keeper)

    def kill_slurmd(self, node: str) -> None:
        """The node falls silent, as one behind a broken network: only its daemon is killed, jobs on it go on."""
        for daemon in self._slurmds(node):
            daemon.kill()
            daemon.wait(_PATIENCE)

    def down(self, node: str) -> None:
        """The administrator takes the node down: its jobs lose it at once."""
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")

    def start(self, node: str) -> None:
        """Bring a node back after `crash`, `kill_slurmd` or `down`."""
        if not self._slurmds(node):
            self._launch(node, "slurmd", "-D", "-N", node)
            self.wait(lambda: bool(self._slurmds(node)))
        if self.nodes()[node].startswith("down"):
            self.run("scontrol", "update", f"nodename={node}", "state=resume")

    def cancel_all(self) -> None:
        """Every job of the queue is cancelled, and killed without the time that SLURM gives it to end."""
        self.run("scancel", "--user=root", "--state=RUNNING", "--full", "--signal=KILL")
        self.run("scancel", "--user=root")

    def wait_idle(self, seconds: float = _PATIENCE) -> None:
        """Wait until the queue is empty and every node answers and is free.

        Raises:
            TimeoutError: where that takes longer.
        """
        self.wait(lambda: not self.jobs() and set(self.nodes().values()) == {"idle"}, seconds)

    def wait(self, condition: Callable[[], bool], seconds: float = _PATIENCE) -> None:
        """Wait until something is so.

        Raises:
            TimeoutError: where that takes longer, with the end of every daemon's log.
        """
        end = time.monotonic() + seconds
        while not self._holds(condition):
            if time.monotonic() > end:
                logs = (f"{log.name}: {log.read_text()[-500:]}" for log in sorted(self.folder.glob("*.out")))
                raise TimeoutError("\n".join([f"waited {seconds} s in vain", *logs]))
            time.sleep(0.1)

    def _holds(self, condition: Callable[[], bool]) -> bool:
        """A controller that is starting or overwhelmed cannot be asked."""
        try:
            return condition()
        except subprocess.CalledProcessError:
            return False

    def _configure(self) -> None:
        names = ("slurmctld", "slurmdbd", "mariadb", *NODES)
        ports = dict(zip(names, _free_ports(len(names)), strict=True))
        host = socket.gethostname().split(".")[0]
        password = secrets.token_hex()
        places = {"folder": self.folder, "host": host, "address": _ADDRESS} | ports
        nodes = [
            f"NodeName={node} NodeHostname={host} NodeAddr={_ADDRESS} Port={ports[node]} "
            "CPUs=4 RealMemory=4000 Gres=gpu:2"
            for node in NODES
        ]
        # SLURM takes a GPU for real only where its file is a character device: these are /dev/null.
        for gpu in range(2):
            os.mknod(self.folder / f"gpu{gpu}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        files = {
            "slurm.conf": _SLURM_CONF.format(
                preemption="SlurmctldParameters=preempt_send_user_signal" if self._preempt_signal else "",
                requeue=self._requeue,
                max_array_size=self._max_array_size,
                nodes="\n".join(nodes),
                **places,
            ),
            "slurmdbd.conf": _SLURMDBD_CONF.format(user=_DATABASE_USER, password=password, **places),
            "gres.conf": f"AutoDetect=off\nNodeName={','.join(NODES)} Name=gpu File={self.folder}/gpu[0-1]\n",
            # torch.distributed asks for IPv6 first and does not go on where nss_wrapper knows none.
            "hosts": "\n".join(
                [
                    Path("/etc/hosts").read_text(),
                    *(f"{_ADDRESS} {node}\n::ffff:{_ADDRESS} {node}" for node in NODES),
                    "",
                ]
            ),
            "munge.key": secrets.token_hex(),
            "init.sql": f"CREATE USER {_DATABASE_USER}@'{_ADDRESS}' IDENTIFIED BY '{password}';\n"
            f"GRANT ALL ON slurm_acct_db.* TO {_DATABASE_USER}@'{_ADDRESS}';\n",
        }
        for name, text in files.items():
            (self.folder / name).touch(mode=0o600)
            (self.folder / name).write_text(text)
        self._database_port, self._accounting_port = ports["mariadb"], ports["slurmdbd"]

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
            f"--bind-address={_ADDRESS}",
            f"--port={self._database_port}",
            f"--init-file={folder}/init.sql",
            "--skip-name-resolve",
            "--innodb-log-file-size=4M",
        )
        self.wait(lambda: _answers(self._database_port))
        self._launch("slurmdbd", "slurmdbd", "-D")
        self.wait(lambda: _answers(self._accounting_port))

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


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((_ADDRESS, port)) == 0


def _free_ports(count: int) -> list[int]:
    """Ports outside the range from which Linux takes those of outgoing connections."""
    ports: list[int] = []
    while len(ports) < count:
        with socket.socket() as server:
            port = random.randrange(20_000, 32_000)
            try:
                server.bind((_ADDRESS, port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports


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
