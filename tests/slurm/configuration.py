"""The configuration of the test cluster: its nodes, ports and files."""

import os
import random
import secrets
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

NODES = ("f1", "f2", "f3", "f4")
#: Type of the GPUs of every node, and a feature that every node has.
GPU_TYPE, FEATURE = "small", "fast"
#: Address of all daemons.
ADDRESS = "127.0.0.1"

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


@dataclass(frozen=True)
class ClusterOptions:
    """What tests may vary in a cluster.

    Args:
        max_array_size: one more than the largest index of a job array.
        requeue: whether jobs that lose their node are requeued unless they say otherwise (``JobRequeue``).
        preempt_signal: whether preempted jobs receive the signal they asked for (``preempt_send_user_signal``), with
            which submitit checkpoints, or SIGTERM only.
    """

    max_array_size: int = 1001
    requeue: bool = True
    preempt_signal: bool = True


def write_configuration(folder: Path, options: ClusterOptions) -> dict[str, int]:
    """Write the files that the daemons of a cluster read.

    Returns:
        Ports of the daemons and nodes by their names.
    """
    names = ("slurmctld", "slurmdbd", "mariadb", *NODES)
    ports = dict(zip(names, _find_free_ports(len(names)), strict=True))
    host = socket.gethostname().split(".")[0]
    password = secrets.token_hex()
    common = {"folder": folder, "host": host, "address": ADDRESS} | ports
    nodes = [
        f"NodeName={node} NodeHostname={host} NodeAddr={ADDRESS} Port={ports[node]} CPUs=4 RealMemory=4000 "
        f"Gres=gpu:{GPU_TYPE}:2 Feature={FEATURE}"
        for node in NODES
    ]
    # SLURM takes a GPU for real only where its file is a character device: these are /dev/null.
    for gpu in range(2):
        os.mknod(folder / f"gpu{gpu}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    files = {
        "slurm.conf": _SLURM_CONF.format(
            preemption="SlurmctldParameters=preempt_send_user_signal" if options.preempt_signal else "",
            requeue=options.requeue,
            max_array_size=options.max_array_size,
            nodes="\n".join(nodes),
            **common,
        ),
        "slurmdbd.conf": _SLURMDBD_CONF.format(user=_DATABASE_USER, password=password, **common),
        "gres.conf": f"AutoDetect=off\nNodeName={','.join(NODES)} Name=gpu Type={GPU_TYPE} File={folder}/gpu[0-1]\n",
        # torch.distributed asks for IPv6 first and does not go on where nss_wrapper knows none.
        "hosts": "\n".join(
            [Path("/etc/hosts").read_text(), *(f"{ADDRESS} {node}\n::ffff:{ADDRESS} {node}" for node in NODES), ""]
        ),
        "munge.key": secrets.token_hex(),
        "init.sql": f"CREATE USER {_DATABASE_USER}@'{ADDRESS}' IDENTIFIED BY '{password}';\n"
        f"GRANT ALL ON slurm_acct_db.* TO {_DATABASE_USER}@'{ADDRESS}';\n",
    }
    for name, text in files.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(text)
    return ports


def _find_free_ports(count: int) -> list[int]:
    """Return free ports outside the range from which Linux takes those of outgoing connections."""
    ports: list[int] = []
    while len(ports) < count:
        with socket.socket() as server:
            port = random.randrange(20_000, 32_000)
            try:
                server.bind((ADDRESS, port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports
