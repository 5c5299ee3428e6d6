"""Weights & Biases, written from the store; the one module that imports wandb.

A run of the store is one W&B run, whoever trained it and however often it was interrupted: its id is its signature, its
group the sweep, its configuration ``config.yaml``, its history ``metrics.parquet``, its summary ``summary.json``.

Offline a W&B run is written in one piece, so that a reader or ``wandb sync`` finds it complete or not at all, and
once written again it takes the place of the one before. Online its rows are sent as they come; the server knows how
far it got.
"""

import hashlib
import json
import netrc
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from http.client import HTTPException
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

# Nothing may be reported to a third party, nor wait for one.
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

import polars as pl
import wandb
from wandb.plot.custom_chart import CustomChartSpec

from nc_sweeps.config import SeparationConfig, list_all_keys
from nc_sweeps.errors import UserError
from nc_sweeps.metrics.catalogue import CLOCKS, METRICS
from nc_sweeps.publish.published import FOLDER, Published, content, offline_folders
from nc_sweeps.store.files import read_yaml, replace_infinities
from nc_sweeps.store.runs import flat, read_metrics, read_summary

#: The obstacle that is nobody's fault.
NO_KEY = "no API key"
#: Seconds in which the server has to answer.
_ANSWER = 3.0
#: Seconds in which the server has to take a new run, and the rest of a run.
_BEGIN, _FINISH = 20.0, 300.0
#: Columns of the table ``certificate`` of a run, and their logarithms: the server's own charts know no such axis.
_CERTIFICATE = ("time", "nc1/train", "certificate/nc1_bound", "certificate/tightness")
_LOGARITHMS = {"time": "log10 time", "nc1/train": "log10 NC1", "certificate/nc1_bound": "log10 bound"}
#: Figures of a run, drawn by the server from that table: which of its charts, the columns, the title.
_FIGURES = {
    "nc1_and_bound": ("wandb/scatter/v0", {"x": "log10 bound", "y": "log10 NC1"}, "NC1 against its certificate"),
    "tightness": ("wandb/line/v0", {"x": "log10 time", "y": "certificate/tightness"}, "NC1 / bound along training"),
}
#: How a server may say that it has a chart of that name; no word of it is documented.
_IS_THERE = re.compile("409|already|exists|conflict|duplicate|in use|taken|unique", re.IGNORECASE)
#: Keys of a configuration that decide its numbers.
_DECISIVE = frozenset(key.name for key in list_all_keys() if key.role != "unsigned")
_SETTINGS = wandb.Settings(
    silent=True,
    console="off",
    disable_code=True,
    disable_git=True,
    save_code=False,
    symlink=False,  # to the latest run: several processes publish at the same time
    init_timeout=_BEGIN,
    finish_timeout=_FINISH,
    finish_timeout_raises=True,
    x_disable_meta=True,
    x_disable_stats=True,  # of the publishing process
    x_save_requirements=False,
)


class PublishingError(UserError):
    """A run that cannot be published."""


def obstacle(mode: str) -> str | None:
    """What keeps runs from the server, found out within seconds and without a question to the user.

    Args:
        mode: ``tracking.mode``; where it is ``auto`` the environment variable ``WANDB_MODE`` may say ``offline``.

    Returns:
        None: nothing. An empty text: they are to be offline.
    """
    if mode == "offline" or (mode == "auto" and os.environ.get("WANDB_MODE") in {"offline", "dryrun", "disabled"}):
        return ""
    server = str(wandb.setup(_SETTINGS).settings.base_url)
    if not _has_key(server):
        return NO_KEY
    return _silence(server)


def default_entity() -> str:
    """User or team to which the API key belongs.

    Raises:
        PublishingError: the server does not say.
    """
    with in_one_line():
        return str(wandb.Api(timeout=int(_BEGIN)).default_entity)


def plain_key(name: str) -> str:
    """Where the summary of a W&B run has a key of its configuration, or the last value of a metric, as a plain number.

    The server's custom charts are asked for entries of the summary by name, and look into none.
    """
    return "end/" + name.replace(".", "/")


def keep_chart(entity: str, name: str, specification: Mapping[str, Any]) -> None:
    """Keep a chart on the server for panels to refer to as ``<entity>/<chart_name(…)>``.

    Args:
        entity: user or team to whom it belongs.
        name: what it shows.
        specification: Vega-Lite, with ``${field:…}`` and ``${string:…}`` where a panel says what.

    Raises:
        PublishingError: the server refuses it.
    """
    try:
        with in_one_line():
            wandb.Api(timeout=int(_BEGIN)).create_custom_chart(
                entity, chart_name(name, specification), name, "vega2", "private", dict(specification)
            )
    except PublishingError as error:
        # A chart cannot be changed, and one of this name is the same.
        if not _IS_THERE.search(str(error)):
            raise


def chart_name(name: str, specification: Mapping[str, Any]) -> str:
    """Under which a chart is kept: another specification has another name."""
    content = hashlib.sha256(json.dumps(specification, sort_keys=True).encode()).hexdigest()
    return f"nc-sweeps-{name.replace(' ', '-')}-{content[:8]}"


def report_id(sweep: str) -> str:
    """Of the W&B run that holds the report of a sweep."""
    return f"report-{hashlib.sha256(sweep.encode()).hexdigest()[:12]}"


def publish_report(
    sweep: str, tracking: Mapping[str, Any], page: Path, figures: Mapping[Path, str], runs: pl.DataFrame
) -> None:
    """Publish the report of a sweep as a W&B run of its own, in the place of the one before.

    Args:
        sweep: its name.
        tracking: configuration of its runs.
        page: HTML.
        figures: images, and what each shows.
        runs: table of final values.

    Raises:
        PublishingError: wandb refuses, or the server does not answer.
    """
    with in_one_line(), tempfile.TemporaryDirectory(prefix="nc-sweeps-wandb-") as workplace:
        run = wandb.init(
            dir=workplace,
            project=tracking["project"],
            entity=tracking["entity"],
            id=report_id(sweep),
            name=f"report of {sweep}",
            group=sweep,
            job_type="report",
            mode="online",
            reinit="create_new",
            settings=_SETTINGS,
        )
        images = {f"figures/{path.stem}": wandb.Image(str(path), caption=title) for path, title in figures.items()}
        table = wandb.Table(columns=list(runs.columns), data=[list(row) for row in runs.iter_rows()])
        run.log({**images, "report": wandb.Html(str(page), inject=False), "runs": table})
        run.finish()


def _has_key(server: str) -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    try:
        keys = netrc.netrc(os.environ.get("NETRC", Path.home() / ".netrc"))
    except (OSError, netrc.NetrcParseError):
        return False
    return keys.authenticators(urlsplit(server).netloc) is not None


def _silence(server: str) -> str | None:
    """Why there is no answer; None: there is one, whatever it says."""
    found: list[str | None] = []

    def ask() -> None:
        try:
            urlopen(server, timeout=_ANSWER).close()
            found.append(None)
        except HTTPError:
            found.append(None)
        except (OSError, HTTPException) as error:
            found.append(f"no answer from {server}: {getattr(error, 'reason', error)}")

    # Looking a name up may take longer than any time-out, and cannot be interrupted.
    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_ANSWER + 0.5)
    return found[0] if found else f"no answer from {server} within {_ANSWER:g} s"


class Publication:
    """A W&B run that is being written.

    Args:
        run: folder of the run; it was begun.
        obstacle: what keeps it from the server; None: it goes there.

    Raises:
        StoreError: a stored file cannot be read.
        PublishingError: wandb refuses, or the server does not answer.
    """

    def __init__(self, run: Path, obstacle: str | None) -> None:
        self.run = run
        self.obstacle = obstacle
        self._content, self._rows = "", 0
        with in_one_line():
            self.config = read_yaml(run / "config.yaml")
            self._knobs = {plain_key(k): replace_infinities(v) for k, v in flat(self.config).items() if k in _DECISIVE}
            self.tracking = self.config["tracking"]
            summary = read_summary(run)
            self._started = datetime.fromisoformat(summary["started"]).timestamp()
            self._workplace = self._make_workplace()
            self._wandb = self._begin(summary["signature"])
            self._next = 0 if self._wandb.offline else self._wandb.starting_step

    def _make_workplace(self) -> Path:
        if self.obstacle is None:
            return Path(tempfile.mkdtemp(prefix="nc-sweeps-wandb-"))
        folder = self.run.parent / FOLDER
        folder.mkdir(exist_ok=True)
        return Path(tempfile.mkdtemp(dir=folder, prefix="."))

    def _begin(self, identifier: str) -> wandb.Run:
        run = wandb.init(
            dir=self._workplace,
            project=self.tracking["project"],
            entity=self.tracking["entity"],
            id=identifier,
            name=_title(self.config),
            notes=" ".join(read_yaml(self.run / "overrides.yaml")),
            group=self.run.parent.name,
            job_type=self.tracking["job_type"],
            tags=self.tracking["tags"],
            config=replace_infinities(self.config),
            mode="online" if self.obstacle is None else "offline",
            resume="allow" if self.obstacle is None else None,
            reinit="create_new",
            settings=_SETTINGS,
        )
        for name in CLOCKS:
            run.define_metric(name)
        # A pattern costs as much as a name, and gives way to it.
        run.define_metric("*", step_metric="time", summary="last,min")
        for name, metric in METRICS.items():
            if metric.best == "max":
                run.define_metric(name, step_metric="time", summary="last,max")
        return run

    def update(self) -> None:
        """Send what is new in the store.

        Raises:
            StoreError: a stored file cannot be read.
            PublishingError: wandb came to its end.
        """
        now = content(self.run)
        if now == self._content:
            return
        summary = read_summary(self.run)
        rows = read_metrics(self.run) if (self.run / "metrics.parquet").exists() else pl.DataFrame()
        with in_one_line():
            for row in rows.iter_rows(named=True):
                if row["step"] >= self._next:
                    when = {"_timestamp": self._started + row["seconds"]}
                    self._wandb.log(row | when, step=row["step"], commit=True)
                    self._next = row["step"] + 1
            self._wandb.summary.update(_summary(summary) | self._knobs)
        self._content, self._rows = now, rows.height

    def close(self) -> None:
        """Send the rest, and end the W&B run as the run stands: done, failed, or preempted.

        Raises:
            StoreError: a stored file cannot be read.
            PublishingError: the server did not take it.
        """
        try:
            self.update()
            status = read_summary(self.run)["status"]
            with in_one_line():
                if status == "running":
                    self._wandb.mark_preempting()
                else:
                    self._add_table()
                    self._add_model()
                url = "" if self._wandb.offline else str(self._wandb.project_url)
                self._wandb.finish(exit_code=0 if status == "completed" else 1)
            for former in offline_folders(self.run):
                shutil.rmtree(former)
            if self.obstacle is not None:
                folder = Path(self._wandb.dir).parent
                folder.rename(self.run.parent / FOLDER / folder.name)
            Published(self._content, self._rows, url, self.obstacle or "").write(self.run)
        finally:
            shutil.rmtree(self._workplace, ignore_errors=True)

    def _add_table(self) -> None:
        """NC1 beside its certificate, and its figures."""
        if not (self.run / "metrics.parquet").exists():
            return
        rows = read_metrics(self.run)
        rows = rows.select(name for name in _CERTIFICATE if name in rows.columns)
        rows = rows.with_columns(
            pl.when(pl.col(name) > 0).then(pl.col(name).log10()).alias(logarithm)
            for name, logarithm in _LOGARITHMS.items()
            if name in rows.columns
        )
        table = wandb.Table(columns=list(rows.columns), data=[list(row) for row in rows.iter_rows()])
        self._wandb.summary.update({"certificate": table})
        for key, (chart, fields, title) in _FIGURES.items():
            if set(fields.values()) <= set(rows.columns):
                figure = _Figure(chart, fields, {"title": title}, key)
                # As wandb.Run.log does, but that would add a row to the history.
                self._wandb._config_callback(key=figure.config_key, val=figure.config_value)

    def _add_model(self) -> None:
        state = self.run / "checkpoint.safetensors"
        if self.tracking["model"] and state.exists():
            artifact = wandb.Artifact(f"state-{self._wandb.id}", type="model", metadata=replace_infinities(self.config))
            # The store keeps it: no need for a copy until it is sent.
            artifact.add_file(str(state), policy="immutable")
            artifact.add_file(str(self.run / "config.yaml"), policy="immutable")
            self._wandb.log_artifact(artifact)


class _Figure(CustomChartSpec):
    """A chart of the table that the run has already."""

    @property
    def table_key(self) -> str:
        return "certificate"


def publish(run: Path, obstacle: str | None) -> None:
    """Write the W&B run of a run as it stands; arguments and errors as for :class:`Publication`."""
    Publication(run, obstacle).close()


def _title(config: dict[str, Any]) -> str:
    """What tells runs apart at a glance."""
    knobs = [name for name in SeparationConfig.__annotations__ if name in config["dataset"]]
    separation = [f"{name}={config['dataset'][name]:g}" for name in knobs]
    network = config["model"]["name"]
    shape = f"N={config['width']['particles']}" if network == "mean_field" else network
    return " ".join([shape, *separation, f"seed={config['seed']}"])


def _summary(summary: dict[str, Any]) -> dict[str, Any]:
    """``summary.json``, the metrics by their names, the best as the smallest or the largest, the last once more."""
    metrics = {plain_key(name): entry["last"] for name, entry in summary["metrics"].items()}
    for name, entry in summary["metrics"].items():
        metrics[name] = {METRICS[name].best if key == "best" else key: value for key, value in entry.items()}
    return {key: value for key, value in summary.items() if key != "metrics"} | metrics


@contextmanager
def in_one_line() -> Iterator[None]:
    """Whatever wandb raises is something that was not published."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise PublishingError(f"W&B: {' '.join(str(error).split()) or type(error).__name__}") from error
