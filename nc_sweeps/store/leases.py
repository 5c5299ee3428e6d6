"""Who trains which run: leases with a heartbeat, on any file system that the processes share.

=============================  ========================================================================================
``.leases/<run>.<number>``     names the process that holds the run; the highest number counts
``.leases/<process>.json``     says where that process lives; it touches the file as long as it does
=============================  ========================================================================================

A run is free if it has no lease, or if the holder of the latest is gone: its file was removed, its process is known to
have ended (on this machine), or it has been silent for too long. To take a run over is to create the lease of the next
number, which the file system grants to one process only. A number is never used again before the run is done, so
that it does not matter how long ago somebody looked.
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
#: Heartbeats while a lease would go stale.
_BEATS = 6
#: Exit code of a process that was taken for dead, found its runs taken over and must not touch them any more.
TAKEN_OVER = 75


class LeaseHolder:
    """This process as a holder of leases.

    Args:
        sweep: folder of the runs.
        stale_after: seconds of silence after which others may take its runs over.
        about: what a reader may want to know of the process, as the job that it belongs to.
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
        write(self.path, json.dumps(_identity() | self.about).encode())
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
            Whether it is this process's now. What the run's files said before may be out of date.
        """
        number = self._latest(run)
        if number and not self._is_free(self.folder / f"{run}.{number}"):
            return False
        mine = number + 1
        try:
            with (self.folder / f"{run}.{mine}").open("x") as lease:
                lease.write(self.path.name)
        except FileExistsError:
            return False
        if self._latest(run) != mine:  # it was taken over long ago and goes by higher numbers
            (self.folder / f"{run}.{mine}").unlink()
            return False
        self._held[run] = mine
        (self.folder / f"{run}.{number}").unlink(missing_ok=True)
        return True

    def release(self, run: str) -> None:
        """Give back a run that is done."""
        (self.folder / f"{run}.{self._held.pop(run)}").unlink(missing_ok=True)

    def _latest(self, run: str) -> int:
        return max((int(path.suffix[1:]) for path in self.folder.glob(f"{run}.*")), default=0)

    def _is_free(self, lease: Path) -> bool:
        # By the clock that stamps the heartbeats, which need not be this machine's.
        now = self.path.stat().st_mtime + time.monotonic() - self._last_beat
        try:
            holder = lease.read_text()
            if not holder:  # not written yet, or its writer was killed just then
                return now - lease.stat().st_mtime > self.stale_after
        except FileNotFoundError:  # done, and given back, just now
            return True
        return not is_alive(self.folder / holder, self.stale_after, now)

    def _beat(self) -> None:
        while not self._stopped.wait(self.stale_after / _BEATS):
            silent = time.monotonic() - self._last_beat
            self._touch()
            if silent > self.stale_after and any(self._latest(run) != number for run, number in self._held.items()):
                os._exit(TAKEN_OVER)  # stopped for long, and another process has gone on with the runs

    def _touch(self) -> None:
        os.utime(self.path)
        self._last_beat = time.monotonic()


def is_alive(holder: Path, stale_after: float, now: float) -> bool:
    """Whether a process that holds leases still trains.

    Args:
        holder: its file.
        stale_after: seconds of silence that mean death, where the process cannot be asked.
        now: time, as a file is stamped.
    """
    try:
        with holder.open() as file:  # opening asks a network file system for the present state
            silent = now - os.fstat(file.fileno()).st_mtime
            identity = json.load(file)
    except (FileNotFoundError, ValueError):
        return False
    here = _identity()
    if any(identity.get(key) != here[key] for key in ("boot", "namespace")):
        return silent <= stale_after
    try:
        return bool(psutil.Process(identity["pid"]).create_time() == identity["created"])
    except psutil.NoSuchProcess:
        return False


def holders(sweep: Path) -> dict[str, Path]:
    """The files of the processes that hold runs, dead ones included, by the names of the runs' folders."""
    latest: dict[str, int] = {}
    for path in (sweep / _FOLDER).glob("*.*"):
        if path.suffix[1:].isdigit():
            latest[path.stem] = max(int(path.suffix[1:]), latest.get(path.stem, 0))
    found = {}
    for run, number in latest.items():
        try:
            found[run] = sweep / _FOLDER / (sweep / _FOLDER / f"{run}.{number}").read_text()
        except FileNotFoundError:  # done just now
            continue
    return found


def held(sweep: Path, stale_after: float) -> set[str]:
    """Names of the runs that a living process holds; the arguments as for :func:`is_alive`."""
    found = holders(sweep)
    alive = {holder for holder in set(found.values()) if is_alive(holder, stale_after, time.time())}
    return {run for run, holder in found.items() if holder in alive}


Worker = LeaseHolder


def _identity() -> dict[str, Any]:
    """Of this process: on which running system, in which process namespace, which process."""
    process = psutil.Process()
    try:
        boot, namespace = Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        boot, namespace = f"{uuid.getnode()}-{psutil.boot_time()}", ""
    return {"host": os.uname().nodename, "boot": boot, "namespace": namespace, "pid": process.pid,
            "created": process.create_time()}  # fmt: skip
