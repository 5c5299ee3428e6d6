"""nc-sweeps: the laboratory for neural collapse in the mean-field regime."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nc_sweeps.tracking.store import load_sweep

__all__ = ["load_sweep"]


def __getattr__(name: str) -> Any:
    # Polars loads when a table is asked for, not with every import of the package.
    if name == "load_sweep":
        from nc_sweeps.tracking.store import load_sweep

        return load_sweep
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
