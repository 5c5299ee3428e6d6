"""What a sweep varied."""

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
    """Configuration keys, the seed aside, that differ between the runs of a sweep.

    Keys that only networks of one kind have, and all of these the same, are told by ``model.name``.

    Args:
        table: as :func:`nc_sweeps.load_sweep` gives it.
    """
    keys = [key for key in table.columns if key not in _LABELS | {"seed"} and table[key].n_unique() > 1]
    return [key for key in keys if not _repeats(table, key) and not _told_by_network(table, key)]


def _told_by_network(table: pl.DataFrame, key: str) -> bool:
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
    """Of the keys those that no earlier one decides, as β decides a weight decay that is set to 1/β.

    Args:
        table: a row a run.
        keys: of its configuration.
    """
    kept: list[str] = []
    for key in keys:
        if not any(_decides(table, earlier, key) for earlier in kept):
            kept.append(key)
    return kept


def _decides(table: pl.DataFrame, earlier: str, key: str) -> bool:
    values = table.select(earlier, key).unique().sort(earlier)
    if values.height != values[earlier].n_unique():
        return False
    # Where every run has a number of its own, as in a random search, each key would decide all others.
    drawn_apart = values.height == table.height and values[earlier].dtype.is_numeric()
    return not drawn_apart or values[key].is_sorted() or values[key].is_sorted(descending=True)


def shorten_names(keys: Sequence[str]) -> dict[str, str]:
    """Each key without its group, unless two keys would then be called the same."""
    tails = [key.rpartition(".")[2] for key in keys]
    return {key: tail if tails.count(tail) == 1 else key for key, tail in zip(keys, tails, strict=True)}
