"""Publish a sweep whose runs nobody has published, or not to the end."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import Progress

from nc_sweeps.errors import StoreError, UserError
from nc_sweeps.publish.published import is_current, offline_folders, told
from nc_sweeps.publish.weights_and_biases import NO_KEY, PublishingError, obstacle, publish
from nc_sweeps.store.leases import find_holders, is_alive
from nc_sweeps.store.runs import run_directories

#: Runs that are sent to the server at a time.
_AT_ONCE = 8


def sync(sweep: Path, console: Console) -> list[str]:
    """Publish the runs of a sweep that are not published as they stand: on the server if there is one, or offline.

    Args:
        sweep: folder of the runs.
        console: for progress.

    Returns:
        Lines for the user: where the runs are.

    Raises:
        StoreError: there are no runs.
        PublishingError: the server cannot be reached though there is an API key, or a run could not be published. All
            others are.
    """
    runs = run_directories(sweep)
    if not runs:
        raise StoreError(f"{sweep}: no runs here; expected the folder of a sweep")
    why_offline = obstacle("auto")
    online = why_offline is None
    followed = _followed(sweep) if online else set()
    waiting = [run for run in runs if run.name not in followed and not is_current(run, online)]
    failures = _publish(waiting, why_offline, console)
    if failures:
        others = f", and {len(failures) - 1} more runs" if len(failures) > 1 else ""
        raise PublishingError(f"{failures[0]}{others}")
    lines = told(runs)
    if why_offline not in {None, "", NO_KEY}:
        raise PublishingError(why_offline)
    if any(offline_folders(run) for run in runs):
        lines.append(f"where there is a network: wandb sync {sweep}/wandb/offline-run-*")
    return lines


def _publish(runs: Sequence[Path], why_offline: str | None, console: Console) -> list[str]:
    """Publish runs in several processes; return what went wrong."""
    if not runs:
        return []
    at_once = _AT_ONCE if why_offline is None else len(os.sched_getaffinity(0))
    failures = []
    with (
        Progress(console=console, disable=not console.is_terminal) as progress,
        ProcessPoolExecutor(min(at_once, len(runs)), get_context("spawn")) as pool,
    ):
        futures: list[Future[None]] = [pool.submit(publish, run, why_offline) for run in runs]
        for future in progress.track(as_completed(futures), len(futures), description="W&B"):
            try:
                future.result()
            except UserError as error:
                failures.append(str(error))
    return failures


def _followed(sweep: Path) -> set[str]:
    """Names of the runs that are being trained, and published as they grow."""
    found = set()
    for run, holder in find_holders(sweep).items():
        path = sweep / run / "config.yaml"
        if not path.exists():
            continue
        config = OmegaConf.load(path)
        if config.tracking.name == "wandb" and is_alive(holder, config.compute.lease_seconds, time.time()):
            found.add(run)
    return found
