"""The content of a W&B run as plain data: title, summary, table of the certificate and figures."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import polars as pl

from nc_sweeps.config.schema import SeparationConfig, list_all_keys
from nc_sweeps.metrics.catalogue import METRICS
from nc_sweeps.store.files import replace_infinities
from nc_sweeps.store.run_folder import flatten
from nc_sweeps.store.summary import Summary

#: Columns of the table ``certificate`` of a run, and their logarithms: the server's own charts have no such axis.
_CERTIFICATE = ("time", "nc1/train", "certificate/nc1_bound", "certificate/tightness")
_LOGARITHMS = {"time": "log10 time", "nc1/train": "log10 NC1", "certificate/nc1_bound": "log10 bound"}
#: Figures of a run, which the server draws from that table: which of its charts, the columns, the title.
FIGURES = {
    "nc1_and_bound": ("wandb/scatter/v0", {"x": "log10 bound", "y": "log10 NC1"}, "NC1 against its certificate"),
    "tightness": ("wandb/line/v0", {"x": "log10 time", "y": "certificate/tightness"}, "NC1 / bound along training"),
}
#: Keys of a configuration that decide its numbers.
_SIGNED = frozenset(key.name for key in list_all_keys() if key.role != "unsigned")


def make_title(config: Mapping[str, Any]) -> str:
    """Return the title of a run: what distinguishes it from others at a glance."""
    keys = [name for name in SeparationConfig.__annotations__ if name in config["dataset"]]
    separation = [f"{name}={config['dataset'][name]:g}" for name in keys]
    network = config["model"]["name"]
    shape = f"N={config['width']['particles']}" if network == "mean_field" else network
    return " ".join([shape, *separation, f"seed={config['seed']}"])


def make_summary(summary: Summary, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the summary of a W&B run.

    Returns:
        ``summary.json`` with the metrics by their names and the best as ``min`` or ``max``; the last values and the
        keys that decide the numbers once more as plain numbers, see :func:`make_end_key`.
    """
    content = summary.as_dict()
    metrics = content.pop("metrics")
    ends = {make_end_key(name): entry["last"] for name, entry in metrics.items()}
    ends |= {make_end_key(k): replace_infinities(v) for k, v in flatten(config).items() if k in _SIGNED}
    named = {
        name: {METRICS[name].best if key == "best" else key: value for key, value in entry.items()}
        for name, entry in metrics.items()
    }
    return content | ends | named


def make_end_key(name: str) -> str:
    """Return the entry of a W&B summary that holds a key of the configuration, or the last value of a metric, as a
    plain number.

    The server's custom charts ask for entries of the summary by name, and look into none.
    """
    return "end/" + name.replace(".", "/")


def make_certificate_table(rows: pl.DataFrame) -> pl.DataFrame:
    """Return NC1 beside its certificate, from all measurements of a run."""
    rows = rows.select(name for name in _CERTIFICATE if name in rows.columns)
    return rows.with_columns(
        pl.when(pl.col(name) > 0).then(pl.col(name).log10()).alias(logarithm)
        for name, logarithm in _LOGARITHMS.items()
        if name in rows.columns
    )


def name_chart(title: str, specification: Mapping[str, Any]) -> str:
    """Return the name under which a chart is kept: another specification has another name."""
    content = hashlib.sha256(json.dumps(specification, sort_keys=True).encode()).hexdigest()
    return f"nc-sweeps-{title.replace(' ', '-')}-{content[:8]}"


def make_report_id(sweep: str) -> str:
    """Return the id of the W&B run that holds the report of a sweep."""
    return f"report-{hashlib.sha256(sweep.encode()).hexdigest()[:12]}"
