"""Plans: which runs each worker gets, and what that will cost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from nc_launch.backends import Backend
from nc_sweeps.config import compute_ensemble_key
from nc_sweeps.run_spec import RunSpec
from nc_sweeps.wording import format_count

#: Assumed size of an ensemble where the user does not limit it.
_TYPICAL_ENSEMBLE = 32


@dataclass(frozen=True)
class ShapeGroup:
    """Runs of one shape, which can train at once, with their predicted cost.

    Args:
        specs: the runs.
        seconds: predicted time of each run on this machine.
        bytes: predicted memory of one ensemble.
        at_once: runs in an ensemble.
    """

    specs: Sequence[RunSpec]
    seconds: float
    bytes: int
    at_once: int

    @property
    def total_seconds(self) -> float:
        """Predicted time of all runs of the group on this machine."""
        return len(self.specs) * self.seconds


@dataclass(frozen=True)
class Plan:
    """A plan of a launch.

    Args:
        packs: runs of each pack.
        groups: the same runs by shape.
        job_count: number of jobs that take the packs.
        at_once: packs that train at the same time.
    """

    packs: Sequence[Sequence[RunSpec]]
    groups: Sequence[ShapeGroup]
    job_count: int
    at_once: int

    @classmethod
    def make(cls, specs: Sequence[RunSpec], backend: Backend) -> "Plan":
        """Plan a launch of runs, one or more; this times steps of training, which takes seconds.

        Raises:
            DataError: a data set cannot be had.
        """
        settings = backend.settings
        groups = group_by_shape(specs, settings.runs_per_gpu)
        minutes = sum(group.total_seconds for group in groups) / 60
        worthwhile = math.ceil(minutes / settings.pack_minutes) if settings.pack_minutes else len(specs)
        count = max(1, min(backend.packs_at_once, worthwhile, len(specs)))
        packs = share_out(groups, count, settings.max_runs_per_pack)
        jobs = backend.assign_packs(range(len(packs)))
        return cls(packs, groups, len(jobs), min(backend.packs_at_once, len(packs)))

    def make_table(self, done: int) -> Table:
        """Return the plan as a table with one row for each shape.

        Args:
            done: number of runs that were asked for too and are done.
        """
        runs = sum(map(len, self.packs))
        hours = sum(group.total_seconds for group in self.groups) / 3600
        parallel = f", {hours / self.at_once:.2g} with {self.at_once} packs at once" if self.at_once > 1 else ""
        table = Table(
            box=box.SIMPLE_HEAD,
            title=f"{format_count(runs, 'run')} in {format_count(len(self.packs), 'pack')}, "
            f"{format_count(self.job_count, 'job')}; {done} done already",
            caption=f"{hours:.2g} hours of one worker (or GPU) at the speed of this machine{parallel}",
        )
        for heading in ("network", "dimension", "features", "runs", "at once", "ensembles", "GiB", "hours"):
            is_name = heading in {"network", "dimension"}
            table.add_column(heading, justify="right", overflow="fold", no_wrap=not is_name)
        for group in self.groups:
            config = group.specs[0].config
            table.add_row(
                f"N = {config.width.particles}" if config.model.has_particles else config.model.name,
                str(getattr(config.dataset, "dimension", config.dataset.name)),
                "–" if config.model.features is None else str(config.model.features),
                str(len(group.specs)),
                str(group.at_once),
                str(math.ceil(len(group.specs) / group.at_once)),
                f"{group.bytes / 2**30:.2g}",
                f"{group.total_seconds / 3600:.2g}",
            )
        return table


def group_by_shape(specs: Sequence[RunSpec], at_once: int | None) -> list[ShapeGroup]:
    """Group runs by shape and predict their cost with the cost model, calibrated on this machine now.

    Args:
        specs: the runs.
        at_once: largest number of runs in an ensemble; None: as many as memory holds.

    Returns:
        The groups, the most expensive runs first.

    Raises:
        DataError: a data set cannot be had.
    """
    from nc_sweeps.data import load
    from nc_sweeps.dynamics.schedule import Schedule
    from nc_sweeps.training.calibration import measure_speed
    from nc_sweeps.training.memory import find_budget_bytes, predict_peak_bytes
    from nc_sweeps.training.sizes import Size

    speed = measure_speed()
    groups = []
    for same in _split_by_shape(specs):
        config = same[0].config
        data = load(config.dataset)
        size = Size.of(config, data, Schedule.of(config.dynamics, len(data.train.labels)), 0)
        runs = min(at_once or _TYPICAL_ENSEMBLE, len(same)) if config.model.has_particles else 1
        while runs > 1 and predict_peak_bytes(size, runs, 1) > find_budget_bytes(config):
            runs //= 2
        groups.append(
            ShapeGroup(same, speed.predict_seconds(size, runs) / runs, predict_peak_bytes(size, runs, 1), runs)
        )
    return sorted(groups, key=lambda group: -group.seconds)


def share_out(groups: Sequence[ShapeGroup], packs: int, max_runs: int | None) -> list[list[RunSpec]]:
    """Share runs out evenly: each pack gets about the same work, and runs of one shape stay together.

    Args:
        groups: the runs and their cost.
        packs: number of packs.
        max_runs: largest number of runs in a pack, for which more packs may be made; None: no limit.
    """
    total = sum(group.total_seconds for group in groups)
    shares: list[list[RunSpec]] = [[] for _ in range(packs)]
    before = 0.0
    for group in groups:
        for spec in group.specs:
            middle = (before + group.seconds / 2) / total if total > 0 else 0.0
            shares[min(int(middle * packs), packs - 1)].append(spec)
            before += group.seconds
    return [pack for share in shares for pack in _cut(share, max_runs)]


def pack_for_one_worker(specs: Sequence[RunSpec], max_runs: int | None) -> list[list[RunSpec]]:
    """Return packs for one worker that takes them all, whatever they cost; runs of one shape stay together.

    Args:
        specs: the runs.
        max_runs: largest number of runs in a pack; None: no limit.
    """
    return _cut([spec for same in _split_by_shape(specs) for spec in same], max_runs)


def _split_by_shape(specs: Sequence[RunSpec]) -> list[list[RunSpec]]:
    groups: dict[str, list[RunSpec]] = {}
    for spec in specs:
        groups.setdefault(compute_ensemble_key(spec.config), []).append(spec)
    return list(groups.values())


def _cut(specs: list[RunSpec], max_runs: int | None) -> list[list[RunSpec]]:
    """Cut runs into packs; no runs give no pack."""
    size = max_runs or max(1, len(specs))
    return [specs[start : start + size] for start in range(0, len(specs), size)]
