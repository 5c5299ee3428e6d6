"""The interface of everything that follows the progress of training. Importing it does not import torch."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Listener(Protocol):
    """Anything that wants to know how far training is, such as a progress bar."""

    def begin(self, runs: int, work: int) -> None:
        """Hear that ``runs`` more runs begin or go on, with so much work, in any unit, ahead of them."""

    def advance(self, work: int, metrics: dict[str, list[float]]) -> None:
        """Hear of the work done since the last call, and of the latest metrics of the live runs."""

    def finish_runs(self, runs: int) -> None:
        """Hear that ``runs`` more runs came to their end."""
