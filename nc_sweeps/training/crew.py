"""The processes over which the particles of a run are spread.

The first of them reads the store, loads the data, cuts ensembles and hands every other its part of each ensemble; the
others train what they are handed, write nothing and say nothing. They are the processes that srun or torchrun started;
where neither did, the first starts the others on its own machine.

Free of torch until there is a crew.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nc_sweeps.config import ComputeConfig
from nc_sweeps.errors import ConfigError, UserError
from nc_sweeps.interruption import Interruption
from nc_sweeps.training.processes import find_cluster, find_device

if TYPE_CHECKING:
    from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment

    from nc_sweeps.training.ensembles import Ensemble

_FOLLOW = "from nc_sweeps.training.crew import follow_starter; follow_starter()"
#: Seconds that a process may take to end after its connections have broken.
_ENDING = 1.0

Report = Callable[[int, dict[str, list[float]]], None]
#: Trains runs, until they are done or interrupted, and reports.
Train = Callable[["Ensemble", Interruption, Report], None]
Result = TypeVar("Result")


class CrewError(UserError):
    """Another process of the crew came to an end."""


def in_crew(compute: ComputeConfig, lead: Callable[[Train], Result]) -> Result:
    """Lead a crew, or belong to one until its leader is done.

    Args:
        compute: over how many devices of how many nodes.
        lead: what the first process does; given how to train.

    Returns:
        What ``lead`` returns, in every process.

    Raises:
        ConfigError: so many processes cannot be had.
        CrewError: another process came to an end.
    """
    if compute.processes == 1:
        return lead(lambda training, interruption, report: training.train(interruption, report))
    if (cluster := find_cluster()) is not None:
        _join(cluster, compute)
        return _lead(compute, lead) if cluster.global_rank() == 0 else _follow()
    with _Started(compute) as started:
        return _lead(compute, lead, started.meet)


def _backend(compute: ComputeConfig) -> str:
    """What is in main memory always goes by Gloo, checkpoints for one."""
    return "cpu:gloo,cuda:nccl" if find_device(compute).type == "cuda" else "gloo"


def _join(cluster: "ClusterEnvironment", compute: ComputeConfig) -> None:
    """Meet the other processes, once for as long as this one lives."""
    import torch.distributed as dist

    size, started = compute.processes, cluster.world_size()
    if size != started:
        asked = f"compute.devices={compute.devices}, compute.nodes={compute.nodes}"
        raise ConfigError(f"{asked}: needs {size} processes, but srun or torchrun started {started}")
    if not dist.is_initialized():
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = cluster.main_address, str(cluster.main_port)
        dist.init_process_group(_backend(compute), rank=cluster.global_rank(), world_size=size)


class _Started:
    """Processes on this machine, which end with the context; this one is the first, and meets the others when there is
    something to train.
    """

    def __init__(self, compute: ComputeConfig) -> None:
        if compute.nodes > 1:
            raise ConfigError(f"compute.nodes={compute.nodes}: start nc-train on every node, by srun or torchrun")
        self.compute = compute
        self.others: list[subprocess.Popen[bytes]] = []
        self.folder = tempfile.TemporaryDirectory(prefix="nc-sweeps-")
        self.met = False

    def __enter__(self) -> "_Started":
        # Sessions of their own: Ctrl-C is for this process, which ends them.
        self.others = [
            subprocess.Popen(
                [sys.executable, "-c", _FOLLOW],
                stdin=subprocess.PIPE,
                env=os.environ | {"LOCAL_RANK": str(rank)},
                start_new_session=True,
            )
            for rank in range(1, self.compute.devices)
        ]
        return self

    def meet(self) -> None:
        """Make the processes a group, unless they are."""
        import torch.distributed as dist
        from torch.distributed import FileStore  # type: ignore[attr-defined]

        if self.met:
            return
        size, backend = self.compute.devices, _backend(self.compute)
        path = str(Path(self.folder.name, "meeting"))
        store = FileStore(path, size)
        for rank, other in enumerate(self.others, start=1):
            assert other.stdin is not None
            other.stdin.write(json.dumps([rank, size, path, backend]).encode() + b"\n")
            other.stdin.flush()
        while not store.check([str(rank) for rank in range(1, size)]):
            self._check()
            time.sleep(0.02)
        dist.init_process_group(backend, store=store, rank=0, world_size=size)
        self.met = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if error is not None and not isinstance(error, UserError | KeyboardInterrupt | SystemExit):
                # Where another process was killed, all that this one knows is a broken connection.
                self._check(wait=_ENDING)
        finally:
            self._end(failed=error is not None)

    def _check(self, wait: float = 0.0) -> None:
        """Say which process has failed."""
        until = time.monotonic() + wait
        while True:
            for rank, other in enumerate(self.others, start=1):
                if code := other.poll():
                    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                    raise CrewError(
                        f"compute.devices={self.compute.devices}: the process of rank {rank} {how}; "
                        "the same command goes on from the last checkpoints"
                    )
            if time.monotonic() >= until:
                return
            time.sleep(0.02)

    def _end(self, failed: bool) -> None:
        for other in self.others:
            if failed or not self.met:  # else it has been told that there is no more to train
                other.kill()
            other.wait()
            assert other.stdin is not None
            other.stdin.close()
        if self.met:
            import torch.distributed as dist

            dist.destroy_process_group()
        self.folder.cleanup()


def follow_starter() -> None:
    """What a process does that :class:`_Started` has started."""
    import torch.distributed as dist
    from torch.distributed import FileStore  # type: ignore[attr-defined]

    import nc_sweeps.training.ensembles  # noqa: F401 (all that takes long, while the starter prepares what is to train)

    rank, size, path, backend = json.loads(_line_of_stdin())
    threading.Thread(target=_end_with_starter, daemon=True).start()
    store = FileStore(path, size)
    store.set(str(rank), "here")
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    _follow()
    dist.destroy_process_group()


def _line_of_stdin() -> bytes:
    """Read without a buffer, of which the interpreter could not let go while a thread waits for more."""
    line = b""
    while not line.endswith(b"\n"):
        if not (byte := os.read(0, 1)):
            raise SystemExit(1)
        line += byte
    return line


def _end_with_starter() -> None:
    """Whatever ends the process that started this one closes the pipe between them."""
    os.read(0, 1)
    os._exit(1)


def _lead(
    compute: ComputeConfig,
    lead: Callable[[Train], Result],
    meet: Callable[[], None] | None = None,
) -> Result:
    """Do what ``lead`` says; the others follow, from the start on or from when they have been met."""
    others = range(1, compute.processes)
    listening = meet is None

    def tell(rank: int, message: object) -> None:
        import torch
        import torch.distributed as dist

        dist.send_object_list([message], dst=rank, device=torch.device("cpu"))

    def train(training: "Ensemble", interruption: Interruption, report: Report) -> None:
        nonlocal listening
        if meet:
            meet()
        listening = False
        for rank in others:
            tell(rank, training.part(rank))
        training.part(0).train(interruption, report)
        listening = True

    result: list[Result] = []
    try:
        result.append(lead(train))
    finally:
        if listening:
            for rank in others:
                tell(rank, result)
    return result[0]


def _follow() -> Any:
    """Train what the leader sends until it sends its result, a list that is empty where it failed."""
    import torch
    import torch.distributed as dist

    from nc_sweeps.training.ensembles import Ensemble

    while True:
        message: list[Any] = [None]
        dist.recv_object_list(message, src=0, device=torch.device("cpu"))
        if not isinstance(message[0], Ensemble):
            break
        # Signals are the leader's affair, who has all stop at the same step.
        with (
            Interruption() as interruption,
            open(os.devnull, "w") as nowhere,
            redirect_stdout(nowhere),
            redirect_stderr(nowhere),
        ):
            message[0].train(interruption)
    if not message[0]:
        raise SystemExit(1)
    return message[0][0]
