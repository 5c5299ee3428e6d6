"""The manifest of a sweep: what each command asked for, before anything is trained.

Each command leaves one file, ``<sweep>/manifest/<time>-<id>.json``, which nobody changes: its overrides, how it was
launched, its environment, and its runs as differences from the first of each kind.
"""

import json
import uuid
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from nc_sweeps.config import Variations, compute_signature, list_values
from nc_sweeps.errors import ConfigError, StoreError
from nc_sweeps.run_spec import RunSpec
from nc_sweeps.store import files

_FOLDER = "manifest"
_KEYS = {"time", "invocation", "environment", "bases", "runs"}


def write(sweep: Path, specs: Sequence[RunSpec], invocation: dict[str, Any], environment: dict[str, Any]) -> Path:
    """Write down what one command asks for.

    Args:
        sweep: folder of the runs.
        specs: the runs.
        invocation: overrides of the command, and how it is launched; JSON.
        environment: versions, commit and host; JSON.

    Returns:
        The new file of the manifest.
    """
    bases: list[dict[str, Any]] = []
    kinds: dict[tuple[str, ...], tuple[int, dict[str, Any]]] = {}
    runs = []
    for spec in specs:
        values = {name: value for name, value, _ in list_values(spec.config)}
        kind = (spec.config.dataset.name, *values)
        if kind not in kinds:
            kinds[kind] = len(bases), values
            bases.append(files.replace_infinities(OmegaConf.to_container(OmegaConf.structured(spec.config))))
        number, base = kinds[kind]
        runs.append(
            {
                "directory": spec.directory.name,
                "signature": compute_signature(spec.config),
                "overrides": spec.overrides,
                "base": number,
                "changes": {
                    name: files.replace_infinities(value) for name, value in values.items() if value != base[name]
                },
            }
        )
    now = datetime.now(UTC)
    path = sweep / _FOLDER / f"{now:%Y%m%dT%H%M%S.%f}-{uuid.uuid4().hex[:6]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"time": now.isoformat(timespec="seconds"), "invocation": invocation, "environment": environment}
    files.write(path, json.dumps(content | {"bases": bases, "runs": runs}, allow_nan=False).encode())
    return path


def list_paths(sweep: Path) -> list[Path]:
    """Return the files of the manifest in the order of time."""
    return sorted((sweep / _FOLDER).glob("*.json"))


def read(path: Path) -> dict[str, Any]:
    """Read what one command asked for.

    Raises:
        StoreError: the file cannot be read.
    """
    return files.read_json(path, _KEYS)


def read_specs(path: Path, sweep: Path, names: Collection[str] | None = None) -> Iterator[RunSpec]:
    """Read the runs that one command asked for.

    Args:
        path: file of the manifest.
        sweep: folder of the runs.
        names: folders of the runs that are wanted; None: all.

    Raises:
        StoreError: the file cannot be read, or holds a run that is not what its signature says.
    """
    content = read(path)
    variations: dict[tuple[Any, ...], Variations] = {}
    for run in content["runs"]:
        if names is not None and run["directory"] not in names:
            continue
        key = (run["base"], *run["changes"])
        try:
            if key not in variations:
                variations[key] = Variations(OmegaConf.create(content["bases"][run["base"]]))
            config = variations[key].parse(run["changes"])
        except ConfigError as error:
            raise StoreError(f"{path}: run {run['directory']}: {error}") from error
        if compute_signature(config) != run["signature"]:
            raise StoreError(f"{path}: run {run['directory']} is not what its signature says")
        yield RunSpec(config, run["overrides"], sweep / run["directory"])
