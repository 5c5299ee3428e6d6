"""Files of the store: replaced in one piece, and told in one line when they cannot be read."""

import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import yaml
from yaml.representer import SafeRepresenter

from nc_sweeps.errors import StoreError


def write(path: Path, content: bytes) -> None:
    """Replace a file."""
    replace(path, lambda file: file.write(content))


def replace(path: Path, content: Callable[[Any], object]) -> None:
    """Replace a file in one piece: write a neighbour, flush it to disk, rename.

    Args:
        path: of the file; its folder exists.
        content: called with the open file.
    """
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            content(file)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o666 & ~_UMASK)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def read_json(path: Path, keys: set[str]) -> dict[str, Any]:
    """An object that has at least the given keys.

    Raises:
        StoreError: it cannot be read.
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
    """What a YAML file holds.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        return yaml.load(path.read_bytes(), Loader=_YAML)
    except (OSError, yaml.YAMLError) as error:
        raise StoreError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error


def as_yaml(value: Any) -> bytes:
    """What :func:`read_yaml` reads, and OmegaConf, to the same value.

    Args:
        value: of dictionaries, lists, texts, numbers, truth values and None.
    """
    return yaml.dump(value, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False).encode()


# What the store holds needs nothing that only OmegaConf has, and these are twenty times as fast.
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Quotes texts that some readers take for numbers or truth values: ``1e3``, ``y``."""


def _text(dumper: SafeRepresenter, text: str) -> yaml.ScalarNode:
    quoted = len(text) < 2 or not text[0].isalpha()
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if quoted else None)


_Dumper.add_representer(str, _text)

# Temporary files are private; results should be as readable as any other file of the user. The mask can only be read
# by setting it, which is safe while a module is imported.
_UMASK = os.umask(0)
os.umask(_UMASK)


def plain(value: Any) -> Any:
    """A value as JSON has it, which knows no infinity; OmegaConf reads the word."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
