"""Publish what is not yet published of a sweep."""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from nc_sweeps.errors import StoreError, UserError
from nc_sweeps.process import count_cores
from nc_sweeps.publish.access import check_environment, is_disabled, keep_to_itself
from nc_sweeps.publish.published import describe_published, find_offline_folders, is_current
from nc_sweeps.publish.weights_and_biases import NO_KEY, PublishingError, find_obstacle, publish
from nc_sweeps.store.leases import find_holders, is_alive
from nc_sweeps.store.run_folder import RunFolder
from nc_sweeps.store.sweep_folder import SweepFolder

#: Runs that are sent to the server at a time.
_AT_ONCE = 8


@keep_to_itself()
def sync(sweep: Path, console: Console) -> list[str]:
    """Publish the runs of a sweep that are not published as they stand: on the server if there is one, or offline.

    Args:
        sweep: folder of the runs.
        console: shows the progress.

    Returns:
        Lines for the user: where the runs are.

    Raises:
        StoreError: there are no runs.
        PublishingError: the server cannot be reached though there is an API key, or a run could not be published. All
            others are.
    """
    runs = SweepFolder(sweep).run_folders()
    if not runs:
        raise StoreError(f"{sweep}: no runs here; expected the folder of a sweep")
    check_environment()
    if is_disabled("auto"):
        raise PublishingError("WANDB_MODE=disabled: nothing is published; unset it, or set it to offline")
    obstacle = find_obstacle("auto")
    online = obstacle is None
    followed = _find_followed(sweep) if online else set()
    waiting = [run for run in runs if run.name not in followed and not is_current(run, online)]
    failures = _publish_all(waiting, obstacle, console)
    if failures:
        others = f", and {len(failures) - 1} more runs" if len(failures) > 1 else ""
        raise PublishingError(f"{failures[0]}{others}")
    lines = describe_published(runs)
    if obstacle not in {None, "", NO_KEY}:
        raise PublishingError(obstacle)
    if any(find_offline_folders(run) for run in runs):
        lines.append(f"where there is a network: wandb sync {sweep}/wandb/offline-run-*")
    return lines


def _publish_all(runs: Sequence[RunFolder], obstacle: str | None, console: Console) -> list[str]:
    """Publish runs in several processes; return the messages of those that failed."""
    if not runs:
        return []
    at_once = _AT_ONCE if obstacle is None else count_cores()
    failures = []
    with (
        Progress(console=console, disable=not console.is_terminal) as progress,
        ProcessPoolExecutor(min(at_once, len(runs)), get_context("spawn")) as pool,
    ):
        futures: list[Future[None]] = [pool.submit(publish, run, obstacle) for run in runs]
        for future in progress.track(as_completed(futures), len(futures), description="W&B"):
            try:
                future.result()
            except UserError as error:
                failures.append(str(error))
    return failures


def _find_followed(sweep: Path) -> set[str]:
    """Return the names of the runs that a living process trains, and a companion of it publishes as they grow."""
    followed = set()
    for name, holder in find_holders(sweep).items():
        run = SweepFolder(sweep).run(name)
        if not run.config_path.exists():
            continue
        config = run.read_config_tree()
        is_tracked = config["tracking"]["name"] == "wandb"
        if is_tracked and is_alive(holder, config["compute"]["lease_seconds"], time.time()):
            followed.add(name)
    return followed
