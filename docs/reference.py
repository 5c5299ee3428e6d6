"""Writes docs/configuration.md and docs/metrics.md from the schema, the conf/ tree and the catalogue of metrics."""

import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from nc_sweeps.config import CHOICES, declared_keys
from nc_sweeps.config.composition import compose_config
from nc_sweeps.metrics.catalogue import CLOCKS, METRICS

DOCS = Path(__file__).parent

_CONFIGURATION = """# Configuration

Every key of `nc-train`, as the schema in `nc_sweeps/config/schema.py` declares it. Change one with `key=value`, sweep
it with `-m key=value,value`, choose a preset with `group=option`. A value that cannot be run is refused with one line.

The *role* says what a key means for a sweep:

- **shape**: runs that differ in it train in different ensembles;
- **per run**: runs that differ in it only train together, as one program;
- **place**: it does not touch the numbers, so it is not part of a run's signature.

Values that need care in a shell: quote lists and ranges, as in `'seed=range(4)'`.
"""

_METRICS = """# Metrics

What a run measures, by the names that `metrics.parquet`, `summary.json` and `nc_sweeps.load_sweep` use. Choose some of
them with `metrics.include=[nc1/*,loss/train]`, and when with `metrics.spacing`, `metrics.points` and `metrics.every`.
A metric that is undefined is NaN (null in JSON), never a made-up number.
"""


_OF = {
    "any": "all networks",
    "particles": "mean-field networks",
    "parameters": "deep networks",
    "two layers": "networks with `model.features`",
    "targets": "networks trained by `mse`",
}


def configuration() -> str:
    """The configuration reference."""
    defaults = _leaves(_composed())
    for choice in (f"{group}={name}" for group in ("dataset", "model") for name in CHOICES[group]):
        defaults |= {key: value for key, value in _leaves(_composed(choice)).items() if key not in defaults}
    sections: dict[str, list[str]] = {}
    for key, role, text in declared_keys():
        group = key.partition(".")[0] if "." in key else "the run"
        default = "" if key in {f"{name}.name" for name in CHOICES} else f"`{defaults[key]}`" if key in defaults else ""
        sections.setdefault(group, []).append(f"| `{key}` | {default} | {role.replace('_', ' ')} | {text} |")
    body = []
    for group in ("the run", *(name for name in sections if name != "the run")):
        options = sorted(path.stem for path in (DOCS.parent / "conf" / group).glob("*.yaml"))
        presets = f"\nPresets: {', '.join(f'`{group}={option}`' for option in options)}.\n" if options else ""
        body.append(f"\n## {group}\n{presets}\n| key | default | role | meaning |\n|---|---|---|---|")
        body += sections[group]
    return _CONFIGURATION + "\n".join(body) + "\n"


def metrics() -> str:
    """The reference of metrics."""
    rows = ["\n| when | |", "|---|---|", *(f"| `{name}` | {text} |" for name, text in CLOCKS.items())]
    rows += ["\n| metric | definition | undefined when | measured of |", "|---|---|---|---|"]
    rows += [
        f"| `{name}` | {_cell(metric.definition)} | {_cell(metric.undefined)} | {_OF[metric.networks]} |"
        for name, metric in METRICS.items()
    ]
    return _METRICS + "\n".join(rows) + "\n"


def _composed(*overrides: str) -> Any:
    return OmegaConf.to_container(compose_config(overrides))


def _leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, dict):
        return {k: v for name, value in tree.items() for k, v in _leaves(value, f"{prefix}{name}.").items()}
    return {prefix.rstrip("."): json.dumps(tree).strip('"').replace("Infinity", "inf")}


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    (DOCS / "configuration.md").write_text(configuration())
    (DOCS / "metrics.md").write_text(metrics())
