"""Measures of collapse, balance and error as pure functions of tensors, the catalogue of all metrics, and the measures
of collapse as metrics for any training loop.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nc_sweeps.metrics.streaming import NearestClassCentre, NeuralCollapse

__all__ = ["NearestClassCentre", "NeuralCollapse"]


def __getattr__(name: str) -> Any:
    # The catalogue is in the same package, and importing it must not import torch.
    if name in __all__:
        from nc_sweeps.metrics import streaming

        return getattr(streaming, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
