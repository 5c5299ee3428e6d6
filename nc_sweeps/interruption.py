"""Signals that ask training to stop. Training stops when its state is saved."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

#: Ctrl-C, and the signals by which different clusters announce the end of a job.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Interruption:
    """A context that catches the signals that ask training to stop. A second Ctrl-C ends the process at once.

    Attributes:
        signal: the first signal that came; None: no signal came.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # no other thread can catch signals
            self._before = {number: signal.getsignal(number) for number in SIGNALS}
            self.catch()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def catch(self) -> None:
        """Catch the signals; again after Lightning has installed handlers of its own, as it does in every ``fit``."""
        for number in self._before:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = signal.Signals(number)
        elif number == signal.SIGINT:
            signal.default_int_handler(number, frame)


class InterruptedTraining(SystemExit):
    """A signal asked training to stop, and all runs are saved.

    Args:
        by: the signal.
    """

    def __init__(self, by: signal.Signals) -> None:
        super().__init__("interrupted; the same command goes on from here")
        self.by = by
