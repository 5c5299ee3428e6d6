"""Writes docs/configuration.md and docs/metrics.md from the schema, the files of conf/ and the catalogue of metrics."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nc_sweeps.composition import compose_config
from nc_sweeps.config import CHOICES, Key, RunConfig, list_keys
from nc_sweeps.metrics.catalogue import CLOCKS, METRICS

DOCS = Path(__file__).parent
CONF = DOCS.parent / "conf"

_CONFIGURATION = """# Configuration

Every key of `nc-train`, as the schema in `nc_sweeps/config/` declares it. Change a key with `key=value`, sweep it with
`-m key=value,value`, and choose a preset of a group with `group=preset`. A value that cannot be run is refused with one
line. Quote lists and ranges in a shell, as in `'seed=range(4)'`.

The *role* says what a key means for a sweep:

- **shape**: runs that differ in it train in different ensembles;
- **per run**: runs that differ only in such keys train together, as one program;
- **unsigned**: the key does not decide the numbers, so it does not enter the signature of a run.

Where the presets of a group differ, each row names those for which it holds.
"""

_METRICS = """# Metrics

What a run measures, by the names that `metrics.parquet`, `summary.json` and `nc_sweeps.load_sweep` use. Choose metrics
with `metrics.include=[nc1/*,loss/train]`, and the times of measurement with `metrics.spacing`, `metrics.points` and
`metrics.every`. A metric that is undefined is NaN (null in JSON), never a made-up number.
"""

_NETWORKS = {
    "any": "all networks",
    "particles": "mean-field networks",
    "parameters": "deep networks",
    "two layers": "networks with `model.features`",
    "targets": "networks trained by `mse`",
}


def describe_configuration() -> str:
    """Return the text of docs/configuration.md."""
    lines = ["\n## the run\n", *_describe_group("")]
    for field in dataclasses.fields(RunConfig):
        if field.metadata["role"] == "group":
            lines += [f"\n## {field.name}\n", *_describe_group(field.name)]
    return _CONFIGURATION + "\n".join(lines) + "\n"


def describe_metrics() -> str:
    """Return the text of docs/metrics.md."""
    lines = ["", *_begin_table("when", "meaning")]
    lines += [_write_row(f"`{name}`", text) for name, text in CLOCKS.items()]
    lines += ["", *_begin_table("metric", "definition", "undefined when", "measured of")]
    lines += [
        _write_row(f"`{name}`", metric.definition, metric.undefined, _NETWORKS[metric.networks])
        for name, metric in METRICS.items()
    ]
    return _METRICS + "\n".join(lines) + "\n"


def _describe_group(group: str) -> Iterator[str]:
    """Yield the lines of a group: a row for each key and, where its presets differ, for each default or meaning."""
    presets = _compose_presets(group)
    rows: dict[str, dict[tuple[str, ...], list[str]]] = {}
    for preset, values in presets.items():
        for key in _list_keys(group, values):
            # The name of a data set, a network or its dynamics follows from the preset; an empty text shows nothing.
            is_given = values[key.name] and key.name.removesuffix(".name") not in CHOICES
            default = f"`{values[key.name]}`" if is_given else ""
            cells = (default, key.role.replace("_", " "), key.text)
            rows.setdefault(f"`{key.name}`", {}).setdefault(cells, []).append(preset)
    if len(presets) == 1:
        yield from _begin_table("key", "default", "role", "meaning")
        yield from (_write_row(name, *cells) for name, variants in rows.items() for cells in variants)
        return
    yield f"Presets: {', '.join(f'`{group}={preset}`' for preset in presets)}; the first is the default.\n"
    yield from _begin_table("key", "presets", "default", "role", "meaning")
    for name, variants in rows.items():
        for cells, holders in variants.items():
            yield _write_row(name, "all" if len(holders) == len(presets) else ", ".join(holders), *cells)


def _compose_presets(group: str) -> dict[str, dict[str, str]]:
    """Return the values of all keys for each preset of a group, the default first; for a group without, one entry."""
    default = _flatten(compose_config())
    options = [path.stem for path in (CONF / group).glob("*.yaml")] if group else []
    if not options:
        return {"": default}
    presets = {option: _flatten(compose_config([f"{group}={option}"])) for option in options}
    schemas = list(CHOICES.get(group, ()))

    def rank(preset: str) -> tuple[bool, int, str]:
        return presets[preset] != default, schemas.index(presets[preset][f"{group}.name"]) if schemas else 0, preset

    return {preset: presets[preset] for preset in sorted(presets, key=rank)}


def _list_keys(group: str, values: dict[str, str]) -> list[Key]:
    """Return the keys of a group that a config with these values has."""
    if group in CHOICES:
        return list(list_keys(CHOICES[group][values[f"{group}.name"]], f"{group}."))
    return [key for key in list_keys(RunConfig) if key.name.rpartition(".")[0] == group]


def _flatten(tree: Any, prefix: str = "") -> dict[str, str]:
    """Return the values of a config as they are typed, by dotted names."""
    if isinstance(tree, DictConfig):
        tree = OmegaConf.to_container(tree)
    if isinstance(tree, dict):
        return {k: v for name, value in tree.items() for k, v in _flatten(value, f"{prefix}{name}.").items()}
    return {prefix.rstrip("."): json.dumps(tree).strip('"').replace("Infinity", "inf")}


def _begin_table(*names: str) -> list[str]:
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]


def _write_row(*cells: str) -> str:
    escaped = [cell.replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"


if __name__ == "__main__":
    (DOCS / "configuration.md").write_text(describe_configuration(), "utf-8")
    (DOCS / "metrics.md").write_text(describe_metrics(), "utf-8")
