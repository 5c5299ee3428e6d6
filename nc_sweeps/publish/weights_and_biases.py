"""Weights & Biases, written from the store; the one module that imports wandb.

A run of the store is one W&B run, whichever process trained it and however often it was interrupted: its id is its
signature, its group the sweep, its configuration ``config.yaml``, its history ``metrics.parquet``, its summary
``summary.json``.

Offline a W&B run is written in one piece, so that a reader or ``wandb sync`` finds it complete or not at all, and
takes the place of the one that was written before. Online its rows are sent as they come; the server knows how far it
got.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import wandb
from pydantic import ValidationError
from wandb.plot.custom_chart import CustomChartSpec

from nc_sweeps.errors import UserError
from nc_sweeps.metrics.catalogue import CLOCKS, METRICS
from nc_sweeps.publish.access import check_answer, has_key
from nc_sweeps.publish.content import (
    FIGURES,
    make_certificate_table,
    make_report_id,
    make_summary,
    make_title,
    name_chart,
)
from nc_sweeps.publish.published import FOLDER, Published, find_offline_folders, hash_content
from nc_sweeps.store.files import replace_infinities
from nc_sweeps.store.run_folder import RunFolder

#: The obstacle for which nobody is to blame.
NO_KEY = "no API key"
#: Seconds in which the server has to take a new run, and the rest of a run.
_BEGIN, _FINISH = 20.0, 300.0
#: How a server may say that it has a chart of that name; none of these words is documented.
_IS_THERE = re.compile("409|already|exists|conflict|duplicate|in use|taken|unique", re.IGNORECASE)
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
    """A run cannot be published."""


def find_obstacle(mode: str) -> str | None:
    """Find out, within seconds and without a question to the user, what keeps runs from the server.

    Args:
        mode: ``tracking.mode``; where it is ``auto`` the environment variable ``WANDB_MODE`` may say ``offline``.

    Returns:
        The reason; None: nothing keeps them from it. An empty text: they are to be offline.

    Raises:
        PublishingError: wandb refuses its settings, which keeps runs from being offline, too.
    """
    if mode == "offline" or (mode == "auto" and os.environ.get("WANDB_MODE") in {"offline", "dryrun"}):
        return ""
    with translate_errors():
        server = str(wandb.setup(_SETTINGS).settings.base_url)
    return check_answer(server) if has_key(server) else NO_KEY


def ask_default_entity() -> str:
    """Ask the server to which user or team the API key belongs.

    Raises:
        PublishingError: the server does not say.
    """
    with translate_errors():
        return str(wandb.Api(timeout=int(_BEGIN)).default_entity)


def keep_chart(entity: str, title: str, specification: Mapping[str, Any]) -> None:
    """Keep a chart on the server, to which panels refer as ``<entity>/<name_chart(…)>``.

    Args:
        entity: user or team to whom it belongs.
        title: what it shows.
        specification: Vega-Lite, with ``${field:…}`` and ``${string:…}`` for what each panel sets.

    Raises:
        PublishingError: the server refuses it.
    """
    try:
        with translate_errors():
            wandb.Api(timeout=int(_BEGIN)).create_custom_chart(
                entity, name_chart(title, specification), title, "vega2", "private", dict(specification)
            )
    except PublishingError as error:
        # A chart cannot be changed, and one of this name is the same.
        if not _IS_THERE.search(str(error)):
            raise


def publish_report(
    sweep: str, tracking: Mapping[str, Any], page: Path, figures: Mapping[Path, str], runs: pl.DataFrame
) -> None:
    """Publish the report of a sweep as a W&B run of its own, in place of the one before.

    Args:
        sweep: name of the sweep.
        tracking: group ``tracking`` of the configuration of its runs.
        page: file with the report.
        figures: files of images, and what each shows.
        runs: table of final values.

    Raises:
        PublishingError: wandb refuses, or the server does not answer.
    """
    with translate_errors(), tempfile.TemporaryDirectory(prefix="nc-sweeps-wandb-") as workplace:
        run = wandb.init(
            dir=workplace,
            project=tracking["project"],
            entity=tracking["entity"],
            id=make_report_id(sweep),
            name=f"report of {sweep}",
            group=sweep,
            job_type="report",
            mode="online",
            reinit="create_new",
            settings=_SETTINGS,
        )
        images = {f"figures/{path.stem}": wandb.Image(str(path), caption=title) for path, title in figures.items()}
        run.log({**images, "report": wandb.Html(str(page), inject=False), "runs": _make_table(runs)})
        run.finish()


class Publication:
    """A W&B run that is being written.

    Args:
        run: folder of the run, which was begun.
        obstacle: what keeps it from the server; None: it goes there.

    Raises:
        StoreError: a stored file cannot be read.
        PublishingError: wandb refuses, or the server does not answer.
    """

    def __init__(self, run: RunFolder, obstacle: str | None) -> None:
        self.run = run
        self.obstacle = obstacle
        self._content, self._rows = "", 0
        with translate_errors():
            self.config = run.read_config_tree()
            self.tracking = self.config["tracking"]
            summary = run.read_summary()
            self._started = datetime.fromisoformat(summary.started).timestamp()
            self._workplace = self._make_workplace()
            self._wandb = self._begin(summary.signature)
            self._next = 0 if self._wandb.offline else self._wandb.starting_step

    def _make_workplace(self) -> Path:
        if self.obstacle is None:
            return Path(tempfile.mkdtemp(prefix="nc-sweeps-wandb-"))
        folder = self.run.sweep / FOLDER
        folder.mkdir(exist_ok=True)
        return Path(tempfile.mkdtemp(dir=folder, prefix="."))

    def _begin(self, identifier: str) -> wandb.Run:
        run = wandb.init(
            dir=self._workplace,
            project=self.tracking["project"],
            entity=self.tracking["entity"],
            id=identifier,
            name=make_title(self.config),
            notes=" ".join(self.run.read_overrides()),
            group=self.run.sweep.name,
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
        # A pattern costs as much as a name, and a name takes precedence.
        run.define_metric("*", step_metric="time", summary="last,min")
        for name, metric in METRICS.items():
            if metric.best == "max":
                run.define_metric(name, step_metric="time", summary="last,max")
        return run

    def update(self) -> None:
        """Send what is new in the store.

        Raises:
            StoreError: a stored file cannot be read.
            PublishingError: wandb ended.
        """
        content = hash_content(self.run)
        if content == self._content:
            return
        summary = self.run.read_summary()
        rows = self.run.read_metrics() if self.run.is_measured else pl.DataFrame()
        with translate_errors():
            for row in rows.iter_rows(named=True):
                if row["step"] >= self._next:
                    when = {"_timestamp": self._started + row["seconds"]}
                    self._wandb.log(row | when, step=row["step"], commit=True)
                    self._next = row["step"] + 1
            self._wandb.summary.update(make_summary(summary, self.config))
        self._content, self._rows = content, rows.height

    def close(self) -> None:
        """Send the rest, and end the W&B run in the state of the run: finished, failed or preempted.

        Raises:
            StoreError: a stored file cannot be read.
            PublishingError: the server did not take it.
        """
        try:
            self.update()
            status = self.run.read_summary().status
            with translate_errors():
                if status == "running":
                    self._wandb.mark_preempting()
                else:
                    self._add_certificate()
                    self._add_model()
                url = "" if self._wandb.offline else str(self._wandb.project_url)
                self._wandb.finish(exit_code=0 if status == "completed" else 1)
            for former in find_offline_folders(self.run):
                shutil.rmtree(former)
            if self.obstacle is not None:
                folder = Path(self._wandb.dir).parent
                folder.rename(self.run.sweep / FOLDER / folder.name)
            Published(self._content, self._rows, url, self.obstacle or "").write(self.run)
        finally:
            shutil.rmtree(self._workplace, ignore_errors=True)

    def _add_certificate(self) -> None:
        """Add the table of NC1 beside its certificate, and its figures."""
        if not self.run.is_measured:
            return
        table = make_certificate_table(self.run.read_metrics())
        self._wandb.summary.update({"certificate": _make_table(table)})
        for key, (chart, fields, title) in FIGURES.items():
            if set(fields.values()) <= set(table.columns):
                figure = _Figure(chart, fields, {"title": title}, key)
                # As wandb.Run.log does, but that would add a row to the history.
                self._wandb._config_callback(key=figure.config_key, val=figure.config_value)

    def _add_model(self) -> None:
        state = self.run.checkpoint_path
        if self.tracking["model"] and state.exists():
            artifact = wandb.Artifact(f"state-{self._wandb.id}", type="model", metadata=replace_infinities(self.config))
            # No copy is needed until they are sent: the store keeps both files.
            artifact.add_file(str(state), policy="immutable")
            artifact.add_file(str(self.run.config_path), policy="immutable")
            self._wandb.log_artifact(artifact)


class _Figure(CustomChartSpec):
    """A chart of the table ``certificate``, which the run has already."""

    @property
    def table_key(self) -> str:
        return "certificate"


def _make_table(rows: pl.DataFrame) -> wandb.Table:
    return wandb.Table(columns=list(rows.columns), data=[list(row) for row in rows.iter_rows()])


def publish(run: RunFolder, obstacle: str | None) -> None:
    """Write the W&B run of a run as it stands; arguments and errors as for :class:`Publication`."""
    Publication(run, obstacle).close()


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise whatever wandb raises as a :class:`PublishingError` of one line."""
    try:
        yield
    except UserError:
        raise
    except ValidationError as error:
        first = error.errors()[0]
        name = f"WANDB_{'_'.join(map(str, first['loc'])).upper()}"
        given = f"{name}={os.environ[name]}" if name in os.environ else f"the setting behind {name}"
        raise PublishingError(f"W&B: {given}: {first['msg']}") from error
    except Exception as error:
        raise PublishingError(f"W&B: {' '.join(str(error).split()) or type(error).__name__}") from error
