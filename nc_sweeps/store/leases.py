"""Leases: which process trains which run, on any file system that the processes share.

=============================  ========================================================================================
``.leases/<run>.<number>``     names the process that holds the run; the highest number counts
``.leases/<process>.json``     says where that process lives; it touches the file as long as it does
=============================  ========================================================================================

A run is free if it has no lease, or if the holder of its latest lease is gone: the holder's file was removed, its
process is known to have ended (on this machine), or it has been silent for too long. A process takes a run over by
creating the lease of the next number, which the file system grants to one process only. A number is never used again
before the run is done, so it does not matter how long ago a process looked.
"""

import json
import os
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from nc_sweeps.store.files import write

_FOLDER = ".leases"
#: Heartbeats in the time after which a lease is stale.
_BEATS = 6
#: Exit code of a process that was taken for dead: others have its runs, and it must not touch them any more.
TAKEN_OVER = 75


class LeaseHolder:
    """This process as a holder of leases, with a heartbeat as long as the context lasts.

    Args:
        sweep: folder of the runs.
        stale_after: seconds of silence after which others may take its runs over.
        about: facts about this process for whoever looks at its leases, such as its job; JSON.
    """

    def __init__(self, sweep: Path, stale_after: float, about: dict[str, Any] | None = None) -> None:
        self.folder = sweep / _FOLDER
        self.path = self.folder / f"{uuid.uuid4().hex[:12]}.json"
        self.stale_after = stale_after
        self.about = about or {}
        self._held: dict[str, int] = {}
        self._last_beat = 0.0
        self._stopped = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "LeaseHolder":
        self.folder.mkdir(parents=True, exist_ok=True)
        write(self.path, json.dumps(_identify_process() | self.about).encode())
        self._touch()
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._heart.join()
        self.path.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def claim(self, run: str) -> bool:
        """Take a run unless another process holds it.

        Args:
            run: name of its folder.

        Returns:
            Whether this process holds the run now. If so, read its files again: they may have changed.
        """
        number = self._find_latest(run)
        if number and not self._is_free(self.folder / f"{run}.{number}"):
            return False
        mine = number + 1
        try:
            with (self.folder / f"{run}.{mine}").open("x") as lease:
                lease.write(self.path.name)
        except FileExistsError:
            return False
        if self._find_latest(run) != mine:  # others took it over long ago, under higher numbers
            (self.folder / f"{run}.{mine}").unlink()
            return False
        self._held[run] = mine
        (self.folder / f"{run}.{number}").unlink(missing_ok=True)
        return True

    def release(self, run: str) -> None:
        """Give back a run that is done."""
        (self.folder / f"{run}.{self._held.pop(run)}").unlink(missing_ok=True)

    def _find_latest(self, run: str) -> int:
        """Return the number of the run's latest lease; 0: it has none."""
        return max((int(path.suffix[1:]) for path in self.folder.glob(f"{run}.*")), default=0)

    def _is_free(self, lease: Path) -> bool:
        # The time on the clock that stamps the heartbeats, which need not be this machine's.
        now = self.path.stat().st_mtime + time.monotonic() - self._last_beat
        try:
            holder = lease.read_text()
            if not holder:  # not written yet, or its writer was killed at that moment
                return now - lease.stat().st_mtime > self.stale_after
        except FileNotFoundError:  # its holder has just given it back
            return True
        return not is_alive(self.folder / holder, self.stale_after, now)

    def _beat(self) -> None:
        while not self._stopped.wait(self.stale_after / _BEATS):
            silent = time.monotonic() - self._last_beat
            self._touch()
            if silent > self.stale_after and any(
                self._find_latest(run) != number for run, number in self._held.items()
            ):
                os._exit(TAKEN_OVER)  # it stood still for long, and another process went on with its runs

    def _touch(self) -> None:
        os.utime(self.path)
        self._last_beat = time.monotonic()


def is_alive(holder: Path, stale_after: float, now: float) -> bool:
    """Return whether a process that holds leases still lives.

    Args:
        holder: file of the process.
        stale_after: seconds of silence that mean death, where the process cannot be asked.
        now: present time on the clock that stamps files, in seconds.
    """
    try:
        with holder.open() as file:  # opening makes a network file system look again
            silent = now - os.fstat(file.fileno()).st_mtime
            identity = json.load(file)
    except (FileNotFoundError, ValueError):
        return False
    here = _identify_process()
    if any(identity.get(key) != here[key] for key in ("boot", "namespace")):
        return silent <= stale_after
    try:
        return bool(psutil.Process(identity["pid"]).create_time() == identity["created"])
    except psutil.NoSuchProcess:
        return False


def find_holders(sweep: Path) -> dict[str, Path]:
    """Find the processes that hold the runs of a sweep, dead ones included.

    Returns:
        The file of the process by the name of the run's folder.
    """
    latest: dict[str, int] = {}
    for path in (sweep / _FOLDER).glob("*.*"):
        if path.suffix[1:].isdigit():
            latest[path.stem] = max(int(path.suffix[1:]), latest.get(path.stem, 0))
    holders = {}
    for run, number in latest.items():
        try:
            holders[run] = sweep / _FOLDER / (sweep / _FOLDER / f"{run}.{number}").read_text()
        except FileNotFoundError:  # its holder has just given it back
            continue
    return holders


def _identify_process() -> dict[str, Any]:
    """Return what tells this process from all others: host, boot of the system, process namespace, number and birth."""
    process = psutil.Process()
    try:
        boot, namespace = Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        boot, namespace = f"{uuid.getnode()}-{psutil.boot_time()}", ""
    return {
        "host": os.uname().nodename,
        "boot": boot,
        "namespace": namespace,
        "pid": process.pid,
        "created": process.create_time(),
    }
