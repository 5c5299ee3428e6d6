"""Signals ask training to stop; it answers when its state is saved."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

#: Ctrl-C; the end of a job, announced in the ways of different clusters.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Interruption:
    """The one owner of signals while runs train. A second Ctrl-C ends the process at once.

    Attributes:
        signal: the first that came; None: go on.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # Python gives signals to no other
            self._before = {number: signal.getsignal(number) for number in SIGNALS}
            self.own()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def own(self) -> None:
        """Take the signals, again where a library has helped itself to them (Lightning does, whenever it fits)."""
        for number in self._before:
            signal.signal(number, self._take)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = signal.Signals(number)
        elif number == signal.SIGINT:
            signal.default_int_handler(number, frame)


class InterruptedTraining(SystemExit):
    """Training was told to stop and has saved all runs.

    Args:
        by: the signal.
    """

    def __init__(self, by: signal.Signals) -> None:
        super().__init__("nc-train: interrupted; the same command goes on from here")
        self.by = by
