"""The configuration keys that a sweep varied."""

from collections.abc import Sequence

import polars as pl

from nc_sweeps.metrics.catalogue import CLOCKS, METRICS

_NETWORK = "model.name"
_LABELS = {"signature", "status", "name", *CLOCKS, *METRICS}
# The data set repeats these keys, unless it was given a value of its own.
_REPEATED = {
    "dataset.seed": "seed",
    "dataset.margin": "separation.margin",
    "dataset.distance": "separation.distance",
}


def find_axes(table: pl.DataFrame) -> list[str]:
    """Return the configuration keys, except the seed, whose values differ between the runs of a sweep.

    A key that only one kind of network has, with one value in all of them, is left out: ``model.name`` says the same.

    Args:
        table: as :func:`nc_sweeps.load_sweep` returns it.
    """
    keys = [key for key in table.columns if key not in _LABELS | {"seed"} and table[key].n_unique() > 1]
    return [key for key in keys if not _repeats(table, key) and not _follows_from_network(table, key)]


def _follows_from_network(table: pl.DataFrame, key: str) -> bool:
    if key == _NETWORK or _NETWORK not in table.columns or not table[key].has_nulls():
        return False
    having = table.filter(pl.col(key).is_not_null().any().over(_NETWORK))
    return having[key].n_unique() == 1


def _repeats(table: pl.DataFrame, key: str) -> bool:
    original = _REPEATED.get(key)
    if original is None or original not in table.columns:
        return False
    return table.filter(pl.col(key) != pl.col(original)).is_empty()


def select_independent(table: pl.DataFrame, keys: Sequence[str]) -> list[str]:
    """Return the keys that no earlier key determines; β determines a weight decay that is set to 1/β, for example.

    Args:
        table: one row for each run.
        keys: configuration keys, columns of the table.
    """
    kept: list[str] = []
    for key in keys:
        if not any(_determines(table, earlier, key) for earlier in kept):
            kept.append(key)
    return kept


def _determines(table: pl.DataFrame, earlier: str, key: str) -> bool:
    values = table.select(earlier, key).unique().sort(earlier)
    if values.height != values[earlier].n_unique():
        return False
    # In a random search every run has a value of its own, so that each key would determine all others.
    all_differ = values.height == table.height and values[earlier].dtype.is_numeric()
    return not all_differ or values[key].is_sorted() or values[key].is_sorted(descending=True)


def shorten_names(keys: Sequence[str]) -> dict[str, str]:
    """Map each key to its name without the group, or to itself where two keys would get the same name."""
    tails = [key.rpartition(".")[2] for key in keys]
    return {key: tail if tails.count(tail) == 1 else key for key, tail in zip(keys, tails, strict=True)}
