"""The companion of a training process: publishes the runs that it trains, from the store.

It is a process of its own at a low priority, so training never waits for Weights & Biases, except at its end, and there
for a bounded time. Whatever becomes of the companion, the store is not affected, and ``nc-sweep sync`` publishes what
the companion did not.
"""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from nc_sweeps.errors import UserError
from nc_sweeps.interruption import SIGNALS
from nc_sweeps.publish.access import NO_ERROR_REPORTS, check_environment, is_disabled, separate_folders
from nc_sweeps.publish.published import is_current, note_unpublished
from nc_sweeps.run_spec import RunSpec
from nc_sweeps.store.run_folder import RunFolder

if TYPE_CHECKING:
    from nc_sweeps.publish.weights_and_biases import Publication

#: Seconds between two looks at the store.
_LOOK = 2.0
#: Runs that are sent to the server at a time.
_AT_ONCE = 8
#: Added to the niceness of the process: training comes first, but when it is over something has to be left.
_NICE = 10
#: Seconds that training waits for its companion when all runs are done: in any case, and more for each run.
_PATIENCE, _PATIENCE_A_RUN = 20.0, 1.0
#: Seconds that it waits when it was interrupted and has to go.
_PATIENCE_INTERRUPTED = 3.0


@contextmanager
def publish_meanwhile(specs: Sequence[RunSpec]) -> Iterator[None]:
    """Publish the runs that are tracked while the block trains them; where none is tracked, start no companion.

    Raises:
        UserError: runs are tracked, and a variable of wandb has a value that wandb does not know.
    """
    tracked = [spec for spec in specs if spec.config.tracking.name == "wandb"]
    if not tracked:
        yield
        return
    runs, mode = [RunFolder(spec.directory) for spec in tracked], tracked[0].config.tracking.mode
    check_environment()
    if is_disabled(mode):
        print("W&B: nothing is published, as WANDB_MODE=disabled", file=sys.stderr)
        yield
        return
    with TemporaryDirectory(prefix="nc-sweeps-wandb-", ignore_cleanup_errors=True) as scratch:
        command = [sys.executable, "-m", __name__, mode, *(str(run.path.absolute()) for run in runs)]
        # wandb may be killed and then leaves its temporary files.
        environment = NO_ERROR_REPORTS | os.environ | {"TMPDIR": scratch} | separate_folders(Path(scratch))
        # Signals are for the training process; the end of its standard input tells the companion that training is over.
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True, env=environment
        )
        patience = _PATIENCE_INTERRUPTED
        try:
            yield
            patience = _PATIENCE + _PATIENCE_A_RUN * len(runs)
        finally:
            try:
                assert process.stdin is not None
                process.stdin.close()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(patience)
            finally:
                process.kill()
                process.wait()
    note_unpublished(runs)


class Companion:
    """Publishes runs as they grow (online) or when they have ended (offline).

    Args:
        runs: folders of the runs.
        mode: ``tracking.mode``.
    """

    def __init__(self, runs: Sequence[RunFolder], mode: str) -> None:
        from nc_sweeps.publish.weights_and_biases import find_obstacle

        self.waiting = list(runs)
        self.obstacle = find_obstacle(mode)
        self._open: dict[RunFolder, Publication] = {}
        self._seen: dict[RunFolder, int] = {}

    def look(self, is_over: bool) -> None:
        """Publish what is new.

        Args:
            is_over: whether training is over.
        """
        changed = [run for run in self.waiting if self._has_changed(run, is_over)]
        # Several runs wait for a server at once; offline, each of them needs the CPU.
        with ThreadPoolExecutor(_AT_ONCE if self.obstacle is None else 1) as pool:
            settled = list(pool.map(lambda run: self._settle(run, is_over), changed))
        done = {run for run, is_settled in zip(changed, settled, strict=True) if is_settled}
        self.waiting = [run for run in self.waiting if run not in done]

    def _has_changed(self, run: RunFolder, is_over: bool) -> bool:
        try:
            stamp = run.summary_path.stat().st_mtime_ns
        except FileNotFoundError:
            return False
        is_new, self._seen[run] = stamp != self._seen.get(run), stamp
        return is_new or is_over

    def _settle(self, run: RunFolder, is_over: bool) -> bool:
        """Publish what is new of a run; return whether nothing more is to come."""
        from nc_sweeps.publish.weights_and_biases import PublishingError, publish

        try:
            has_ended = run.read_summary().status != "running"
            if is_current(run, online=False):
                return has_ended
            try:
                if self.obstacle is None:
                    return self._send(run, has_ended or is_over)
            except PublishingError as error:
                self.obstacle = str(error)
            if has_ended:
                publish(run, self.obstacle)
        except UserError as error:
            print(f"{error}; nc-sweep sync {run.sweep} publishes it", file=sys.stderr)
            return True
        return has_ended

    def _send(self, run: RunFolder, is_last: bool) -> bool:
        from nc_sweeps.publish.weights_and_biases import Publication

        if run not in self._open:
            self._open[run] = Publication(run, None)
        self._open[run].update()
        if is_last:
            self._open.pop(run).close()
        return is_last


def main() -> None:
    """Publish the runs of the command line until standard input ends, and then the rest."""
    os.nice(_NICE)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    try:
        companion = Companion([RunFolder(Path(run)) for run in sys.argv[2:]], sys.argv[1])
    except UserError as error:
        print(error, file=sys.stderr)
        os._exit(1)
    is_over = False
    while companion.waiting and not is_over:
        is_over = bool(select.select([sys.stdin], [], [], _LOOK)[0])
        companion.look(is_over)
    # What wandb has not sent by now, nc-sweep sync publishes.
    os._exit(0)


if __name__ == "__main__":
    main()
