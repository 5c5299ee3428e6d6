"""The processes that share the particles of an ensemble.

Process 0 is the leader: it reads the store, loads the data, cuts ensembles and sends every follower its part of each
ensemble. The followers train what they receive; they write and print nothing. srun or torchrun may have started all
processes; otherwise the leader starts its followers on its own machine.

Importing this module does not import torch.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from nc_sweeps.config import ComputeConfig
from nc_sweeps.errors import ConfigError, UserError
from nc_sweeps.interruption import Interruption
from nc_sweeps.training.listener import Listener
from nc_sweeps.training.processes import find_cluster, find_device

if TYPE_CHECKING:
    from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment

    from nc_sweeps.training.ensembles import Ensemble

_FOLLOW = "from nc_sweeps.training.follower import follow_starter; follow_starter()"
#: Seconds that a process may take to end after its connections have broken.
_ENDING_SECONDS = 1.0
_POLLING_SECONDS = 0.02

Result = TypeVar("Result")


class CrewError(UserError):
    """Another process of the crew came to an end."""


class Crew:
    """The processes that share the particles of an ensemble. An object of this very class is a process that is alone.

    .. code-block:: python

        with Crew.join(compute) as crew:
            if not crew.is_leader:
                return crew.follow()
            ...
            crew.train(ensemble, interruption, listener)  # as often as there is something to train
            ...
            return crew.dismiss(result)
    """

    is_leader = True

    @staticmethod
    def join(compute: ComputeConfig) -> "Crew":
        """Return the crew of this process.

        Args:
            compute: the numbers of devices and nodes.

        Raises:
            ConfigError: the processes cannot be had. Entering the context may raise this error, too.
        """
        if compute.processes == 1:
            return Crew()
        cluster = find_cluster()
        return _SpawnedCrew(compute) if cluster is None else _ExternalCrew(compute, cluster)

    def __enter__(self) -> "Crew":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def train(self, ensemble: "Ensemble", interruption: Interruption, listener: Listener) -> None:
        """Train an ensemble together with the followers; only the leader calls this.

        Raises:
            InterruptedTraining: a signal asked to stop. All runs are saved.
            CrewError: another process came to an end before training began. If one ends later, the error that breaks
                the connection is raised here, and leaving the context replaces it by a CrewError where possible.
        """
        ensemble.train(interruption, listener)

    def follow(self) -> Any:
        """Train what the leader sends until it dismisses the crew; only followers call this.

        Returns:
            The result with which the leader dismissed the crew.

        Raises:
            SystemExit: the leader failed.
            RuntimeError: this process is the leader of a crew of one.
        """
        raise RuntimeError("a process that trains alone leads, and has no leader to follow")

    def dismiss(self, result: Result) -> Result:
        """Send the followers a result, with which they stop following, and return it; only the leader calls this."""
        return result


class _SpreadCrew(Crew):
    """Several processes, which meet in the default process group of ``torch.distributed``."""

    def __init__(self, compute: ComputeConfig) -> None:
        self._compute = compute
        #: Whether the followers wait for what the leader sends next.
        self._followers_wait = False

    def train(self, ensemble: "Ensemble", interruption: Interruption, listener: Listener) -> None:
        self._followers_wait = False
        for rank in range(1, self._compute.processes):
            _send(ensemble.cut_part(rank), rank)
        ensemble.cut_part(0).train(interruption, listener)
        self._followers_wait = True

    def follow(self) -> Any:
        from nc_sweeps.training.follower import follow

        return follow()

    def dismiss(self, result: Result) -> Result:
        self._release_followers(result, failed=False)
        return result

    def _release_followers(self, result: object, failed: bool) -> None:
        """Dismiss the followers, unless they have not met the leader yet, are training or were dismissed before."""
        if self._followers_wait:
            from nc_sweeps.training.follower import Dismissal

            self._followers_wait = False
            for rank in range(1, self._compute.processes):
                _send(Dismissal(result, failed), rank)

    def _choose_transport(self) -> str:
        """Return the backend of the group. What lies in main memory, such as checkpoints, always travels by Gloo."""
        return "cpu:gloo,cuda:nccl" if find_device(self._compute).type == "cuda" else "gloo"


class _ExternalCrew(_SpreadCrew):
    """Processes that srun or torchrun started. Their group lasts as long as they live."""

    def __init__(self, compute: ComputeConfig, cluster: "ClusterEnvironment") -> None:
        super().__init__(compute)
        self._cluster = cluster
        self.is_leader = cluster.global_rank() == 0

    def __enter__(self) -> Crew:
        import torch.distributed as dist

        cluster, size = self._cluster, self._compute.processes
        if size != cluster.world_size():
            asked = f"compute.devices={self._compute.devices}, compute.nodes={self._compute.nodes}"
            started = cluster.world_size()
            raise ConfigError(f"{asked}: needs {size} processes, but srun or torchrun started {started}")
        if not dist.is_initialized():
            os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = cluster.main_address, str(cluster.main_port)
            dist.init_process_group(self._choose_transport(), rank=cluster.global_rank(), world_size=size)
        self._followers_wait = self.is_leader
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release_followers(None, failed=True)


class _SpawnedCrew(_SpreadCrew):
    """This process and followers that it starts on its machine. They meet when there is something to train, and end
    with the context.
    """

    def __init__(self, compute: ComputeConfig) -> None:
        super().__init__(compute)
        if compute.nodes > 1:
            raise ConfigError(f"compute.nodes={compute.nodes}: start nc-train on every node, by srun or torchrun")
        self._followers: list[subprocess.Popen[bytes]] = []
        self._folder = tempfile.TemporaryDirectory(prefix="nc-sweeps-")
        self._has_met = False

    def __enter__(self) -> Crew:
        # Followers have sessions of their own, so that Ctrl-C reaches only the leader, which ends them.
        self._followers = [
            subprocess.Popen(
                [sys.executable, "-c", _FOLLOW],
                stdin=subprocess.PIPE,
                env=os.environ | {"LOCAL_RANK": str(rank)},
                start_new_session=True,
            )
            for rank in range(1, self._compute.devices)
        ]
        return self

    def train(self, ensemble: "Ensemble", interruption: Interruption, listener: Listener) -> None:
        if not self._has_met:
            self._meet()
        super().train(ensemble, interruption, listener)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None and not isinstance(error, UserError | KeyboardInterrupt | SystemExit):
                # If a follower was killed, all that the leader knows is a broken connection.
                self._raise_if_one_died(wait=_ENDING_SECONDS)
        finally:
            self._end(failed=error is not None)

    def _meet(self) -> None:
        """Make the processes a group."""
        import torch.distributed as dist
        from torch.distributed import FileStore  # type: ignore[attr-defined]

        size, transport = self._compute.devices, self._choose_transport()
        path = str(Path(self._folder.name, "meeting"))
        store = FileStore(path, size)
        for rank, follower in enumerate(self._followers, start=1):
            assert follower.stdin is not None
            follower.stdin.write(json.dumps([rank, size, path, transport]).encode() + b"\n")
            follower.stdin.flush()
        while not store.check([str(rank) for rank in range(1, size)]):
            self._raise_if_one_died()
            time.sleep(_POLLING_SECONDS)
        dist.init_process_group(transport, store=store, rank=0, world_size=size)
        self._has_met = True

    def _raise_if_one_died(self, wait: float = 0.0) -> None:
        """Raise a CrewError if a follower ended with an error, now or within ``wait`` seconds."""
        until = time.monotonic() + wait
        while True:
            for rank, follower in enumerate(self._followers, start=1):
                if code := follower.poll():
                    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                    raise CrewError(
                        f"compute.devices={self._compute.devices}: the process of rank {rank} {how}; "
                        "the same command goes on from the last checkpoints"
                    )
            if time.monotonic() >= until:
                return
            time.sleep(_POLLING_SECONDS)

    def _end(self, failed: bool) -> None:
        for follower in self._followers:
            if failed or not self._has_met:  # otherwise it was dismissed
                follower.kill()
            follower.wait()
            assert follower.stdin is not None
            with suppress(BrokenPipeError):  # what it was sent and died before reading cannot be flushed
                follower.stdin.close()
        if self._has_met:
            import torch.distributed as dist

            dist.destroy_process_group()
        self._folder.cleanup()


def _send(message: object, rank: int) -> None:
    import torch
    import torch.distributed as dist

    dist.send_object_list([message], dst=rank, device=torch.device("cpu"))
