"""Access to the server of Weights & Biases, without wandb: the API key, an answer in time, no reports of errors."""

import netrc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from threading import Thread
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

#: Seconds in which the server has to answer.
_ANSWER = 3.0
#: With these variables in the environment wandb reports its own errors to nobody.
NO_ERROR_REPORTS = {"WANDB_ERROR_REPORTING": "false"}


def has_key(server: str) -> bool:
    """Return whether the user has an API key for a server."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    try:
        keys = netrc.netrc(os.environ.get("NETRC", Path.home() / ".netrc"))
    except (OSError, netrc.NetrcParseError):
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
def without_error_reports() -> Iterator[None]:
    """Add :data:`NO_ERROR_REPORTS` to the environment as long as the context lasts, unless the user has set it."""
    added = {name: value for name, value in NO_ERROR_REPORTS.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
