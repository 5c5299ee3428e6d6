"""Notes of what was published: a small file in the folder of each run, and a line for the user.

======================  ==============================================================================================
``<run>/wandb.json``    what the store held when its W&B run was written; where that W&B run is, and why there
``<sweep>/wandb/``      offline W&B runs, one for each run, each complete
======================  ==============================================================================================
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nc_sweeps.store import files
from nc_sweeps.store.run_folder import RunFolder
from nc_sweeps.wording import format_count

_NAME = "wandb.json"
#: Folder of a sweep that holds its offline W&B runs.
FOLDER = "wandb"


@dataclass(frozen=True)
class Published:
    """A note of what was published of a run.

    Args:
        content: :func:`hash_content` of the run at that time; empty: it was not published though it should have been.
        rows: number of measurements that were published.
        url: address of the W&B project; empty: the run is offline, or nowhere.
        why_offline: what kept it from the server; empty: nobody wanted it there.
    """

    content: str
    rows: int
    url: str = ""
    why_offline: str = ""

    def write(self, run: RunFolder) -> None:
        """Write the note into the folder of the run."""
        files.write(run.path / _NAME, json.dumps(asdict(self)).encode())


def hash_content(run: RunFolder) -> str:
    """Return a hash of all that can be published of a run: whatever changes in the store changes the summary."""
    return hashlib.sha256(run.config_path.read_bytes() + run.summary_path.read_bytes()).hexdigest()[:16]


def read(run: RunFolder) -> Published | None:
    """Read the note of what was published of a run; None: nothing.

    Raises:
        StoreError: the file cannot be read.
    """
    path = run.path / _NAME
    if not path.exists():
        return None
    entry = files.read_json(path, {"content", "rows", "url", "why_offline"})
    return Published(entry["content"], entry["rows"], entry["url"], entry["why_offline"])


def is_current(run: RunFolder, online: bool) -> bool:
    """Return whether all that the store holds of a run is published.

    Args:
        run: folder of the run, which was begun.
        online: whether it has to be on the server; False: an offline W&B run will do.
    """
    published = read(run)
    if published is None or published.content != hash_content(run):
        return False
    return bool(published.url) or (not online and bool(find_offline_folders(run)))


def find_offline_folders(run: RunFolder) -> list[Path]:
    """Return the folders of a run's offline W&B runs: one, or none."""
    return sorted((run.sweep / FOLDER).glob(f"offline-run-*-{run.name}"))


def note_unpublished(runs: Sequence[RunFolder]) -> None:
    """Note for runs that are not published as they stand that they should be."""
    for run in runs:
        if run.is_begun and not is_current(run, online=False):
            Published("", 0).write(run)


def describe_published(runs: Sequence[RunFolder]) -> list[str]:
    """Tell the user where runs are published: a line for those online, for those offline, and for those nowhere.

    Args:
        runs: folders of runs of one sweep.
    """
    known = [published for run in runs if (published := read(run)) is not None]
    online = [published for published in known if published.url]
    offline = [published for published in known if published.content and not published.url]
    lines = [f"W&B: {format_count(len(online), 'run')} at {online[0].url}"] if online else []
    sweep = os.path.relpath(runs[0].sweep)
    if offline:
        reasons = sorted({published.why_offline for published in offline} - {""})
        why = f" ({'; '.join(reasons)})" if reasons else ""
        there = f"{format_count(len(offline), 'offline run')} in {sweep}/{FOLDER}{why}"
        lines.append(f"W&B: {there}; nc-sweep sync {sweep} sends them")
    if nowhere := len(known) - len(online) - len(offline):
        late = f"{format_count(nowhere, 'run')} could not be published in time"
        lines.append(f"W&B: {late}; nc-sweep sync {sweep} publishes them")
    return lines
