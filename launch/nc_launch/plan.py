"""From runs to packs: which runs one worker gets, and what that will cost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from nc_sweeps.config import ensemble_key
from nc_sweeps.run_spec import RunSpec
from nc_sweeps.wording import format_count

#: Runs that train at once as far as the prediction goes, where nobody says how many.
_TYPICAL_ENSEMBLE = 32


@dataclass(frozen=True)
class Kind:
    """Runs of one shape.

    Args:
        jobs: the runs.
        seconds: predicted for each on this machine.
        bytes: of memory that an ensemble of them takes.
        at_once: runs in an ensemble.
    """

    jobs: Sequence[RunSpec]
    seconds: float
    bytes: int
    at_once: int


@dataclass(frozen=True)
class Plan:
    """What is to be launched.

    Args:
        packs: runs of each worker.
        kinds: the same runs by shape.
        jobs: processes, or tasks of a job array, that take the packs.
        at_once: packs that train at the same time.
    """

    packs: Sequence[Sequence[RunSpec]]
    kinds: Sequence[Kind]
    jobs: int
    at_once: int

    def table(self, done: int) -> Table:
        """The plan, a line a shape.

        Args:
            done: runs that were asked for too and are done.
        """
        runs = sum(map(len, self.packs))
        hours = sum(len(kind.jobs) * kind.seconds for kind in self.kinds) / 3600
        shared_out = f", {hours / self.at_once:.2g} with {self.at_once} packs at once" if self.at_once > 1 else ""
        table = Table(
            box=box.SIMPLE_HEAD,
            title=f"{format_count(runs, 'run')} in {format_count(len(self.packs), 'pack')}, "
            f"{format_count(self.jobs, 'job')}; {done} done already",
            caption=f"{hours:.2g} hours of one worker (or GPU) at the speed of this machine{shared_out}",
        )
        for heading in ("network", "dimension", "features", "runs", "at once", "ensembles", "GiB", "hours"):
            table.add_column(heading, justify="right")
        for kind in self.kinds:
            config = kind.jobs[0].config
            table.add_row(
                f"N = {config.width.particles}" if config.model.has_particles else config.model.name,
                str(getattr(config.dataset, "dimension", config.dataset.name)),
                "–" if config.model.features is None else str(config.model.features),
                str(len(kind.jobs)),
                str(kind.at_once),
                str(math.ceil(len(kind.jobs) / kind.at_once)),
                f"{kind.bytes / 2**30:.2g}",
                f"{len(kind.jobs) * kind.seconds / 3600:.2g}",
            )
        return table


def kinds_of(jobs: Sequence[RunSpec], at_once: int | None) -> list[Kind]:
    """Runs by shape, the most expensive first, with predictions from the engine's cost model, calibrated here and now.

    Args:
        jobs: the runs.
        at_once: runs in an ensemble; None: as many as memory holds.

    Raises:
        DataError: a data set cannot be had.
    """
    from nc_sweeps.data import load
    from nc_sweeps.dynamics.schedule import Schedule
    from nc_sweeps.training.calibration import measured_speed
    from nc_sweeps.training.cost import Size, budget_bytes

    speed = measured_speed()
    kinds = []
    for group in _of_one_shape(jobs):
        config = group[0].config
        data = load(config.dataset)
        size = Size.of(config, data, Schedule.of(config.dynamics, len(data.train.labels)), 0)
        runs = min(at_once or _TYPICAL_ENSEMBLE, len(group)) if config.model.has_particles else 1
        while runs > 1 and size.peak_bytes(runs, 1) > budget_bytes(config):
            runs //= 2
        kinds.append(Kind(group, speed.seconds(size, runs) / runs, size.peak_bytes(runs, 1), runs))
    return sorted(kinds, key=lambda kind: -kind.seconds)


def packs_of(kinds: Sequence[Kind], packs: int, max_runs: int | None) -> list[list[RunSpec]]:
    """Share runs out evenly: each pack gets about the same work, and runs of one shape stay together.

    Args:
        kinds: the runs and their cost.
        packs: how many there should be.
        max_runs: most runs in a pack, which may make it more packs; None: no limit.
    """
    total = sum(len(kind.jobs) * kind.seconds for kind in kinds)
    shares: list[list[RunSpec]] = [[] for _ in range(packs)]
    before = 0.0
    for kind in kinds:
        for job in kind.jobs:
            middle = (before + kind.seconds / 2) / total if total > 0 else 0.0
            shares[min(int(middle * packs), packs - 1)].append(job)
            before += kind.seconds
    return [pack for share in shares for pack in _cut(share, max_runs)]


def in_turn(jobs: Sequence[RunSpec], max_runs: int | None) -> list[list[RunSpec]]:
    """Packs for one worker, who takes them all whatever they cost; runs of one shape stay together.

    Args:
        jobs: the runs.
        max_runs: most runs in a pack; None: no limit.
    """
    return _cut([job for group in _of_one_shape(jobs) for job in group], max_runs)


def _of_one_shape(jobs: Sequence[RunSpec]) -> list[list[RunSpec]]:
    groups: dict[str, list[RunSpec]] = {}
    for job in jobs:
        groups.setdefault(ensemble_key(job.config), []).append(job)
    return list(groups.values())


def _cut(jobs: list[RunSpec], most: int | None) -> list[list[RunSpec]]:
    size = most or max(1, len(jobs))
    return [jobs[start : start + size] for start in range(0, len(jobs), size)]
