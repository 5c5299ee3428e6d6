"""The state of a run: what its summary says, and whether anybody is at work on it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nc_sweeps.store.summary import CLOSED, Summary


@dataclass(frozen=True)
class RunState:
    """The state of a run of a sweep at this moment.

    Args:
        name: name of its folder.
        state: ``completed``, ``diverged``, ``failed``, ``running``, ``stopped`` (begun, and nobody goes on with it),
            ``starting`` (a process holds it, and has written nothing yet) or ``waiting``.
        progress: share of its steps that are done.
        seconds_left: seconds to its end at its present pace; NaN: unknown.
        nc1: NC1 on the training set at the last measurement; NaN: undefined, or not measured.
        reason: why it diverged, failed or stopped.
        overrides: what the user typed for it.
    """

    name: str
    state: str
    progress: float
    seconds_left: float
    nc1: float
    reason: str
    overrides: Sequence[str]

    @classmethod
    def of(cls, name: str, summary: Summary | None, is_held: bool, overrides: Sequence[str] = ()) -> "RunState":
        """Tell the state of a run.

        Args:
            name: name of its folder.
            summary: its summary; None: the run was never begun.
            is_held: whether a living process holds the run.
            overrides: what the user typed for it.
        """
        if summary is None:
            return cls(name, "starting" if is_held else "waiting", 0.0, math.nan, math.nan, "", overrides)
        state, reason = summary.status, summary.reason
        if state not in CLOSED:
            state, reason = ("running", reason) if is_held else ("stopped", "nobody goes on with it")
        progress = 1.0 if state == "completed" else summary.progress.share or 0.0
        left = (summary.progress.seconds or 0.0) * (1 / progress - 1) if progress > 0 else math.nan
        nc1 = summary.last("nc1/train")
        return cls(name, state, progress, left, math.nan if nc1 is None else nc1, reason, overrides)
