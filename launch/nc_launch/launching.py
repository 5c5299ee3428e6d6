"""Launching: plan the runs that are not done, submit them and wait for them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console

from nc_launch.settings import LaunchSettings
from nc_sweeps.errors import ConfigError
from nc_sweeps.publish.access import check_environment
from nc_sweeps.run_spec import RunSpec
from nc_sweeps.training.processes import was_started_with_others
from nc_sweeps.wording import format_count

#: Number of files that a message lists.
_LISTED = 4


def launch(
    specs: Sequence[RunSpec],
    backend_name: str,
    settings: LaunchSettings,
    invocation: dict[str, Any],
    console: Console,
) -> None:
    """Train runs in packs, except those that are done.

    Args:
        specs: the runs, all of one sweep.
        backend_name: key of :data:`nc_launch.backends.BACKENDS`.
        settings: settings of the launcher.
        invocation: what the user typed, for the manifest.
        console: where progress is shown.

    Raises:
        ConfigError: the runs cannot be launched together.
        LaunchError: the jobs cannot be started.
        UserError: runs are tracked, and a variable of wandb has a value that wandb does not know.
        SystemExit: there is nothing to wait for, after a dry run or with ``wait=false``, or the user interrupted.
    """
    from nc_launch.backends import make_backend
    from nc_launch.plan import Plan, pack_for_one_worker
    from nc_launch.submission import Origin
    from nc_sweeps.store.runs import RunStore
    from nc_sweeps.store.summary import FINAL

    if any(spec.config.tracking.name == "wandb" for spec in specs):
        check_environment()
    unique = list({spec.directory: spec for spec in specs}.values())
    undone = [spec for spec in unique if RunStore(spec.directory, spec.config, spec.overrides).status not in FINAL]
    done = len(unique) - len(undone)
    if not undone:
        console.print(f"{format_count(done, 'run')}: all done already", highlight=False)
        return
    origin = Origin(backend_name, _set_devices(settings, undone, backend_name))
    backend = make_backend(origin)
    if settings.dry_run:
        Console().print(Plan.make(undone, backend).make_table(done))
        raise SystemExit(0)
    backend.check([spec.config for spec in undone])
    # One worker takes all runs, whatever they cost; to predict that would take seconds.
    is_alone = backend.packs_at_once == 1
    packs = pack_for_one_worker(undone, settings.max_runs_per_pack) if is_alone else Plan.make(undone, backend).packs
    console.print(
        f"{format_count(len(undone), 'run')} in {format_count(len(packs), 'pack')}"
        + (f"; {done} done already" if done else ""),
        highlight=False,
    )

    from nc_launch.jobs import submit
    from nc_launch.watch import Watch, explain_detachment
    from nc_sweeps.store import manifest
    from nc_sweeps.store.environment import describe_environment

    sweep = undone[0].directory.parent
    jobs = submit(origin, manifest.write(sweep, unique, invocation, describe_environment()), packs)
    if untracked := jobs.submission.untracked:
        names = [*untracked[:_LISTED], *["…"] * (len(untracked) > _LISTED)]
        console.print(f"code that is in no commit goes along: {', '.join(names)}", highlight=False)
    if not settings.wait:
        console.print(explain_detachment(sweep), highlight=False)
        raise SystemExit(0)
    Watch(jobs, undone, console).wait()
    _print_outcome(unique, done, console)


def _set_devices(settings: LaunchSettings, specs: Sequence[RunSpec], backend_name: str) -> LaunchSettings:
    """Return the settings with the devices over which the particles of each run are spread."""
    spreads = {(spec.config.compute.devices, spec.config.compute.nodes) for spec in specs}
    if len(spreads) > 1:
        raise ConfigError("compute.devices, compute.nodes: must be the same for all runs of a multirun")
    ((devices, nodes),) = spreads
    if devices * nodes > 1 and was_started_with_others():
        raise ConfigError(
            f"hydra/launcher={backend_name}: starts the processes of a run itself; leave out srun or torchrun"
        )
    return replace(settings, devices=devices, device_nodes=nodes)


def _print_outcome(specs: Sequence[RunSpec], done: int, console: Console) -> None:
    """Print in one line how many runs ended in which way."""
    from nc_sweeps.store.run_folder import RunFolder

    folders = [RunFolder(spec.directory) for spec in specs]
    counts = Counter(folder.read_summary().status for folder in folders if folder.is_begun)
    counts["completed"] -= done
    parts = [f"{done} done before"] * bool(done)
    parts += [f"{count} {status}" for status, count in counts.items() if count > 0]
    console.print(f"{format_count(len(specs), 'run')}: {', '.join(parts)}", highlight=False)
