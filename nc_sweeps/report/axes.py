"""What a sweep varied."""

from collections.abc import Sequence

import polars as pl

from nc_sweeps.metrics.catalogue import CLOCKS, METRICS

_LABELS = {"signature", "status", "name", *CLOCKS, *METRICS}
# The data set repeats the knobs of the group `separation` and the seed of the run.
_REPEATED = {"seed", "dataset.seed", "dataset.margin", "dataset.distance"}


def axes(table: pl.DataFrame) -> list[str]:
    """Configuration keys, the seed aside, that differ between the runs of a sweep.

    Args:
        table: as :func:`nc_sweeps.load_sweep` gives it.
    """
    keys = [key for key in table.columns if key not in _LABELS | _REPEATED]
    return [key for key in keys if table[key].n_unique() > 1]


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Each key without its group, unless two keys would then be called the same."""
    tails = [key.rpartition(".")[2] for key in keys]
    return {key: tail if tails.count(tail) == 1 else key for key, tail in zip(keys, tails, strict=True)}
