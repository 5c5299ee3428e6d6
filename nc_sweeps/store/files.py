"""Files of the store: replaced in one piece, and an error of one line where one cannot be read."""

import math
import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import yaml
from yaml.representer import SafeRepresenter

from nc_sweeps.errors import StoreError


def write(path: Path, content: bytes) -> None:
    """Replace a file in one piece; its folder exists."""
    replace(path, lambda file: file.write(content))


def replace(path: Path, write_content: Callable[[Any], object]) -> None:
    """Replace a file in one piece: write a neighbour, flush it to disk, rename it.

    Args:
        path: path of the file; its folder exists.
        write_content: writes to the open file that it is given.
    """
    neighbour = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with neighbour.open("xb") as file:
            write_content(file)
            file.flush()
            os.fsync(file.fileno())
        neighbour.replace(path)
    except BaseException as error:
        with suppress(OSError):
            neighbour.unlink(missing_ok=True)
        if isinstance(error, OSError):
            # Whoever reads the message knows the file, and a full disk names none.
            error.filename, error.filename2 = str(path), None
        raise


def make_folder(path: Path) -> None:
    """Make a folder to write into, and those above it, where it is missing.

    Raises:
        StoreError: something else is there, or nothing can be made or written there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise StoreError(f"{path}: a file is in the way; expected a folder") from error
    except OSError as error:
        raise StoreError(f"{path}: this folder cannot be made ({error.strerror})") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise StoreError(f"{path}: this folder cannot be written")


def read_json(path: Path, keys: set[str]) -> dict[str, Any]:
    """Read a JSON object that has at least the given keys.

    Raises:
        StoreError: the file cannot be read, or a key is missing.
    """
    try:
        content = orjson.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read ({error})") from error
    missing = keys - set(content if isinstance(content, dict) else ())
    if missing:
        raise StoreError(f"{path}: damaged, has no {', '.join(sorted(missing))}")
    return content  # type: ignore[no-any-return]


def read_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        StoreError: the file cannot be read.
    """
    try:
        return yaml.load(path.read_bytes(), Loader=_YAML)
    except (OSError, yaml.YAMLError) as error:
        raise StoreError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error


def dump_yaml(value: Any) -> bytes:
    """Return a value as YAML, which :func:`read_yaml` and OmegaConf read to the same value.

    Args:
        value: a value of dictionaries, lists, texts, numbers, truth values and None.
    """
    return yaml.dump(value, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False).encode()


# The store needs nothing that only OmegaConf has, and these are twenty times as fast.
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Quotes texts that some readers take for numbers or truth values: ``1e3``, ``y``."""


def _represent_text(dumper: SafeRepresenter, text: str) -> yaml.ScalarNode:
    needs_quotes = len(text) < 2 or not text[0].isalpha()
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if needs_quotes else None)


_Dumper.add_representer(str, _represent_text)


def replace_infinities(value: Any) -> Any:
    """Return a value with every number that is not finite as text: JSON knows no infinity, and OmegaConf reads the
    word.
    """
    if isinstance(value, dict):
        return {key: replace_infinities(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [replace_infinities(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
