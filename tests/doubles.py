"""Doubles: objects that tests put in the place of the real ones."""

import math

import polars as pl


class SilentListener:
    """A listener to the training of a pack that shows nothing."""

    def begin(self, runs, work):
        pass

    def advance(self, work, metrics):
        pass

    def finish_runs(self, runs):
        pass


class MemoryRecord:
    """A record of a run in memory, which stops training at the first checkpoint from step ``stop_at`` on."""

    class StoppedError(Exception):
        pass

    def __init__(self, stop_at: float = math.inf) -> None:
        self.rows, self.state, self.step, self.status = [], None, None, None
        self.stop_at = stop_at

    def append(self, row):
        self.rows.append(row)

    def flush(self):
        pass

    def save(self, state, step):
        self.state, self.step = {name: value.clone() for name, value in state.items()}, step
        if step >= self.stop_at:
            raise self.StoppedError

    def finish(self, status, reason=""):
        self.status = (status, reason)

    def frame(self):
        return pl.DataFrame(self.rows).drop("seconds")


class MaliciousPickle:
    """An object that writes a file when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return exec, (f"open({str(self.trace)!r}, 'w')",)
