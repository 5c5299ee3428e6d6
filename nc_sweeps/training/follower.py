"""The work of a follower of a crew: to train what the leader sends, silently, until the leader dismisses it.

Importing this module imports all that takes long, while the leader prepares what is to be trained.
"""

import json
import os
import threading
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import FileStore  # type: ignore[attr-defined]

from nc_sweeps.interruption import Interruption
from nc_sweeps.training.ensembles import Ensemble


@dataclass(frozen=True)
class Dismissal:
    """The last message of a leader.

    Args:
        result: the result of the leader's work.
        failed: whether the leader failed, so that there is no result.
    """

    result: object
    failed: bool


def follow() -> Any:
    """Train what the leader sends until it dismisses the crew, and return its result.

    Raises:
        SystemExit: the leader failed.
    """
    while isinstance(message := _receive(), Ensemble):
        # Signals concern only the leader, which makes all processes stop at the same step.
        with (
            Interruption() as interruption,
            open(os.devnull, "w") as nowhere,
            redirect_stdout(nowhere),
            redirect_stderr(nowhere),
        ):
            message.train(interruption)
    assert isinstance(message, Dismissal)
    if message.failed:
        raise SystemExit(1)
    return message.result


def follow_starter() -> None:
    """Follow the process that started this one; it writes where to meet on this one's standard input."""
    rank, size, path, transport = json.loads(_read_line())
    threading.Thread(target=_end_with_starter, daemon=True).start()
    store = FileStore(path, size)
    store.set(str(rank), "here")
    dist.init_process_group(transport, store=store, rank=rank, world_size=size)
    follow()
    dist.destroy_process_group()


def _receive() -> object:
    message: list[object] = [None]
    dist.recv_object_list(message, src=0, device=torch.device("cpu"))
    return message[0]


def _read_line() -> bytes:
    """Read a line of standard input without a buffer, whose lock a thread that waits for more would keep for ever."""
    line = b""
    while not line.endswith(b"\n"):
        if not (byte := os.read(0, 1)):
            raise SystemExit(1)
        line += byte
    return line


def _end_with_starter() -> None:
    """End this process when the pipe to the starter closes, as it does whatever ends the starter."""
    os.read(0, 1)
    os._exit(1)
