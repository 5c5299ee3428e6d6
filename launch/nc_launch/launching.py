"""From runs that were asked for to runs that are done: plan, submit, wait."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from nc_sweeps.errors import ConfigError
from nc_sweeps.run_spec import RunSpec
from nc_sweeps.training.processes import was_started_with_others
from nc_sweeps.wording import format_count

if TYPE_CHECKING:
    from nc_launch.backends import Backend
    from nc_launch.plan import Plan

#: Files that a message names.
_NAMED = 4


def launch(
    jobs: Sequence[RunSpec], place: str, settings: dict[str, Any], invocation: dict[str, Any], console: Console
) -> None:
    """Train runs in packs, except those that are done.

    Args:
        jobs: the runs, of one sweep.
        place: where: a key of :data:`nc_launch.backends.BACKENDS`.
        settings: the keys of ``hydra.launcher``.
        invocation: what the user typed, for the manifest.
        console: for progress.

    Raises:
        SystemExit: nothing is to be waited for: a dry run, a detached sweep; or the user interrupted.
        LaunchError: the jobs cannot be started.
    """
    from nc_launch.backends import BACKENDS
    from nc_launch.plan import in_turn
    from nc_sweeps.store import manifest
    from nc_sweeps.store.runs import FINAL, RunStore, environment

    unique = list({job.directory: job for job in jobs}.values())
    waiting = [job for job in unique if RunStore(job.directory, job.config, job.overrides).status not in FINAL]
    done = len(unique) - len(waiting)
    if not waiting:
        console.print(f"{format_count(done, 'run')}: all done already", highlight=False)
        return
    settings = settings | _placement(waiting, place)
    where = BACKENDS[place](settings)
    if settings["dry_run"]:
        Console().print(_plan(waiting, where, settings).table(done))
        raise SystemExit(0)
    # One worker takes all: no need to know what that costs, which takes seconds to find out.
    one = where.packs_at_once == 1
    packs = in_turn(waiting, settings["max_runs_per_pack"]) if one else _plan(waiting, where, settings).packs

    from nc_launch.submission import Submission
    from nc_launch.watch import detached, watch

    sweep = waiting[0].directory.parent
    console.print(
        f"{format_count(len(waiting), 'run')} in {format_count(len(packs), 'pack')}"
        + (f"; {done} done already" if done else ""),
        highlight=False,
    )
    path = manifest.write(sweep, unique, invocation, environment())
    submission = Submission.create(place, settings, path, packs)
    if submission.untracked:
        names = [*submission.untracked[:_NAMED], *["…"] * (len(submission.untracked) > _NAMED)]
        console.print(f"code that is in no commit goes along: {', '.join(names)}", highlight=False)
    if not settings["wait"]:
        console.print(detached(sweep), highlight=False)
        raise SystemExit(0)
    watch(submission, console)
    tell_outcome(unique, done, console)


def _plan(jobs: Sequence[RunSpec], where: "Backend", settings: dict[str, Any]) -> "Plan":
    from nc_launch.plan import Plan, kinds_of, packs_of

    kinds = kinds_of(jobs, settings["runs_per_gpu"])
    minutes = sum(len(kind.jobs) * kind.seconds for kind in kinds) / 60
    worth = math.ceil(minutes / settings["pack_minutes"]) if settings["pack_minutes"] else len(jobs)
    packs = packs_of(kinds, max(1, min(where.packs_at_once, worth, len(jobs))), settings["max_runs_per_pack"])
    return Plan(packs, kinds, len(where.dealt(range(len(packs)))), min(where.packs_at_once, len(packs)))


def _placement(jobs: Sequence[RunSpec], place: str) -> dict[str, int]:
    """Over how many devices of how many nodes the particles of each run are spread."""
    spread = {(job.config.compute.devices, job.config.compute.nodes) for job in jobs}
    if len(spread) > 1:
        raise ConfigError("compute.devices, compute.nodes: must be the same for all runs of a multirun")
    ((devices, nodes),) = spread
    if devices * nodes > 1 and was_started_with_others():
        raise ConfigError(f"hydra/launcher={place}: starts the processes of a run itself; leave out srun or torchrun")
    return {"devices": devices, "device_nodes": nodes}


def tell_outcome(jobs: Sequence[RunSpec], done: int, console: Console) -> None:
    """One line: how many runs ended how."""
    from nc_sweeps.store.runs import read_summary

    ends = Counter(read_summary(job.directory)["status"] for job in jobs if (job.directory / "summary.json").exists())
    ends["completed"] -= done
    told = [f"{done} done before"] * bool(done) + [f"{count} {end}" for end, count in ends.items() if count > 0]
    console.print(f"{format_count(len(jobs), 'run')}: {', '.join(told)}", highlight=False)
