"""nc-sweeps: the laboratory for neural collapse in the mean-field regime."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nc_sweeps.store.sweep_folder import load_sweep
    from nc_sweeps.training.callback.neural_collapse import NeuralCollapseCallback

__all__ = ["NeuralCollapseCallback", "load_sweep"]

_HOMES = {
    "NeuralCollapseCallback": "nc_sweeps.training.callback.neural_collapse",
    "load_sweep": "nc_sweeps.store.sweep_folder",
}


def __getattr__(name: str) -> Any:
    # Polars, torch and Lightning load when something of theirs is asked for, not with every import of the package.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
