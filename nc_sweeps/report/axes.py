"""The configuration keys that a sweep varied."""

import difflib
import math
from collections.abc import Sequence
from typing import Any

import polars as pl

from nc_sweeps.errors import ConfigError
from nc_sweeps.metrics.catalogue import CLOCKS, METRICS

_NETWORK = "model.name"
#: Significant digits with which a value of a key is shown, unless two values then look alike.
_DIGITS = 6
#: Columns of a table that are no keys of the configuration.
LABELS = {"signature", "status", *CLOCKS, *METRICS}
#: Keys that change no number, or groups of them: runs that differ in nothing else are the same point of a sweep.
_UNSIGNED = {"name", "optimized_metric", "output_dir", "data_dir", "dataset.data_dir", "compute", "figure", "tracking"}
_SIGNED_AFTER_ALL = {"compute.precision"}
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
    keys = [key for key in table.columns if key not in LABELS | {"seed"} and _is_signed(key)]
    keys = [key for key in keys if table[key].n_unique() > 1]
    return [key for key in keys if not _repeats(table, key) and not _follows_from_network(table, key)]


def _follows_from_network(table: pl.DataFrame, key: str) -> bool:
    if key == _NETWORK or _NETWORK not in table.columns or not table[key].has_nulls():
        return False
    having = table.filter(pl.col(key).is_not_null().any().over(_NETWORK))
    return having[key].n_unique() == 1


def _is_signed(key: str) -> bool:
    return key in _SIGNED_AFTER_ALL or not {key, key.partition(".")[0]} & _UNSIGNED


def _find_original(table: pl.DataFrame, key: str) -> str:
    """Return the key that a key repeats in all runs, or the key itself: ``dataset.margin`` is ``separation.margin``."""
    return _REPEATED[key] if _repeats(table, key) else key


def find_key(table: pl.DataFrame, name: str) -> str:
    """Return the key over which a report averages, by its dotted name or by the title that it has in the report.

    Raises:
        ConfigError: there is no such key, or the title fits several.
    """
    varied = [*find_axes(table), "seed"]
    keys = [key for key in table.columns if key not in {*LABELS, "name"}]
    if name in keys:
        return _find_original(table, name)
    fitting = [key for key in keys if key.rpartition(".")[2] == name]
    found = [key for key in fitting if key in varied] or list({_find_original(table, key): None for key in fitting})
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(f"--over={name}: could be {' or '.join(found)}")
    titles = {key.rpartition(".")[2]: key for key in keys}
    close = difflib.get_close_matches(name, [*keys, *titles], 1)
    meant = f"did you mean {titles.get(close[0], close[0])}? " if close else ""
    raise ConfigError(f"--over={name}: no run has this key; {meant}varied: {', '.join(varied)}")


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


def count_digits(values: Sequence[Any]) -> int | None:
    """Return with how many significant digits floats are shown so that all differ, six or more; None: none is a float.

    What is shown is rounded; what is compared is not.
    """
    floats = {value for value in values if isinstance(value, float) and math.isfinite(value)}
    if not floats:
        return None
    return next(d for d in range(_DIGITS, 18) if d == 17 or len({f"{value:.{d}g}" for value in floats}) == len(floats))


def format_key(value: Any, digits: int | None) -> str:
    """Format a value of a key with the digits that :func:`count_digits` returns; one that a run has not is a dash."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.{digits}g}" if digits and isinstance(value, float) else str(value)
