"""What of a sweep was published: a small file in the folder of each run, and one line for the user.

======================  ==============================================================================================
``<run>/wandb.json``    what the store held when its W&B run was written; where that run is, and why there
``<sweep>/wandb/``      offline runs, one a run, each complete
======================  ==============================================================================================
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nc_sweeps.store import files
from nc_sweeps.wording import format_count

_NAME = "wandb.json"
#: Folder of a sweep that holds its offline runs.
FOLDER = "wandb"


@dataclass(frozen=True)
class Published:
    """What was published of a run.

    Args:
        content: :func:`content` of the run at that time; empty: it was not published though it should have been.
        rows: of measurements.
        url: of the W&B project; empty: it is an offline run, or nowhere.
        why_offline: what kept it from the server; empty: nobody wanted it there.
    """

    content: str
    rows: int
    url: str = ""
    why_offline: str = ""

    def write(self, run: Path) -> None:
        """Keep it in the folder of the run."""
        files.write(run / _NAME, json.dumps(asdict(self)).encode())


def content(run: Path) -> str:
    """A name for all that can be published of a run: every change of the store changes the summary."""
    return hashlib.sha256((run / "config.yaml").read_bytes() + (run / "summary.json").read_bytes()).hexdigest()[:16]


def read(run: Path) -> Published | None:
    """What was published of a run; None: nothing.

    Raises:
        StoreError: the file cannot be read.
    """
    path = run / _NAME
    if not path.exists():
        return None
    entry = files.read_json(path, {"content", "rows", "url", "why_offline"})
    return Published(entry["content"], entry["rows"], entry["url"], entry["why_offline"])


def is_current(run: Path, online: bool) -> bool:
    """Whether what the store holds of a run is published.

    Args:
        run: its folder; the run was begun.
        online: on the server; False: an offline run will do.
    """
    published = read(run)
    if published is None or published.content != content(run):
        return False
    return bool(published.url) or (not online and bool(offline_folders(run)))


def offline_folders(run: Path) -> list[Path]:
    """The offline W&B runs of a run: one, or none."""
    return sorted((run.parent / FOLDER).glob(f"offline-run-*-{run.name}"))


def note_unpublished(runs: Sequence[Path]) -> None:
    """Note of runs that came to their end, and of which something is not published, that it should be."""
    for run in runs:
        if (run / "summary.json").exists() and not is_current(run, online=False):
            Published("", 0).write(run)


def told(runs: Sequence[Path]) -> list[str]:
    """Where the runs are published, for the user: a line for what is online, for what is offline, for what is nowhere.

    Args:
        runs: of one sweep.
    """
    known = [published for run in runs if (published := read(run)) is not None]
    online = [published for published in known if published.url]
    offline = [published for published in known if published.content and not published.url]
    lines = [f"W&B: {format_count(len(online), 'run')} at {online[0].url}"] if online else []
    sweep = os.path.relpath(runs[0].parent)
    if offline:
        reasons = sorted({published.why_offline for published in offline} - {""})
        why = f" ({'; '.join(reasons)})" if reasons else ""
        there = f"{format_count(len(offline), 'offline run')} in {sweep}/{FOLDER}{why}"
        lines.append(f"W&B: {there}; nc-sweep sync {sweep} sends them")
    if nowhere := len(known) - len(online) - len(offline):
        late = f"{format_count(nowhere, 'run')} could not be published in time"
        lines.append(f"W&B: {late}; nc-sweep sync {sweep} publishes them")
    return lines
