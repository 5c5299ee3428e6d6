"""Measures of collapse, balance and error: pure functions of tensors, the catalogue of their names, and the measures of
collapse as metrics for any training loop.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nc_sweeps.metrics.streaming import NearestClassCentre, NeuralCollapse

__all__ = ["NearestClassCentre", "NeuralCollapse"]


def __getattr__(name: str) -> Any:
    # The catalogue stands beside them and has to come without torch.
    if name in __all__:
        from nc_sweeps.metrics import streaming

        return getattr(streaming, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
