"""Access to the server of Weights & Biases, without wandb: the API key, an answer in time, no reports of errors."""

import netrc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from nc_sweeps import cache
from nc_sweeps.errors import UserError

#: Seconds in which the server has to answer.
_ANSWER = 3.0
#: With these variables in the environment wandb reports its own errors to nobody.
NO_ERROR_REPORTS = {"WANDB_ERROR_REPORTING": "false"}
#: What wandb understands by ``WANDB_MODE``, and what is to be typed.
_MODES = {"online", "offline", "disabled", "dryrun", "run", "shared"}
_PLAIN_MODES = ("online", "offline", "disabled")


def check_environment() -> None:
    """Refuse variables of wandb that nothing could be published with.

    Raises:
        UserError: one has a value that wandb does not know.
    """
    mode, server = os.environ.get("WANDB_MODE", "online"), os.environ.get("WANDB_BASE_URL", "https://")
    if mode not in _MODES:
        raise UserError(f"WANDB_MODE={mode}: must be one of {', '.join(_PLAIN_MODES)}")
    if urlsplit(server).scheme not in {"http", "https"}:
        raise UserError(f"WANDB_BASE_URL={server}: must be an address, as in https://api.wandb.ai")


def is_disabled(mode: str) -> bool:
    """Return whether the user wants nothing to be published, not even offline.

    Args:
        mode: ``tracking.mode``; the environment counts where it is ``auto``.
    """
    return mode == "auto" and os.environ.get("WANDB_MODE") == "disabled"


def separate_folders(scratch: Path) -> dict[str, str]:
    """Return variables with which wandb keeps its logs and files on their way in a folder, where it cannot write to the
    user's cache.
    """
    try:
        cache.find_lasting_folder()
    except (OSError, RuntimeError):
        pass
    else:
        return {}
    return {"XDG_CACHE_HOME": str(scratch), "WANDB_DATA_DIR": str(scratch)}


def has_key(server: str) -> bool:
    """Return whether the user has an API key for a server."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    try:
        keys = netrc.netrc(os.environ.get("NETRC") or Path.home() / ".netrc")
    except (OSError, RuntimeError, netrc.NetrcParseError):  # RuntimeError: a user without a home
        return False
    return keys.authenticators(urlsplit(server).netloc) is not None


def check_answer(server: str) -> str | None:
    """Return why a server does not answer; None: it does, whatever it says."""
    failures: list[str | None] = []

    def ask() -> None:
        try:
            urlopen(server, timeout=_ANSWER).close()
            failures.append(None)
        except HTTPError:
            failures.append(None)
        except (OSError, HTTPException) as error:
            failures.append(f"no answer from {server}: {getattr(error, 'reason', error)}")

    # To resolve a name may take longer than any time-out, and cannot be interrupted.
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_ANSWER + 0.5)
    return failures[0] if failures else f"no answer from {server} within {_ANSWER:g} s"


@contextmanager
def keep_to_itself() -> Iterator[None]:
    """Change the environment as long as the context lasts, so that wandb keeps to itself: it reports its errors to
    nobody, unless the user has set that, and does without a home that cannot be written.
    """
    added = {name: value for name, value in NO_ERROR_REPORTS.items() if name not in os.environ}
    with TemporaryDirectory(prefix="nc-sweeps-wandb-", ignore_cleanup_errors=True) as scratch:
        changed = added | separate_folders(Path(scratch))
        before = {name: os.environ.get(name) for name in changed}
        os.environ.update(changed)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
