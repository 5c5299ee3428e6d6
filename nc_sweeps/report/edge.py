"""Which runs came near the edge of stability, where a step does not follow the flow."""

import polars as pl

#: The metric and its value at the edge, and the share of it from which a run counts as near.
METRIC = "step/stability"
_EDGE = 2.0
_NEAR = 0.95


def find_near_edge(table: pl.DataFrame, run: str, metric: str = METRIC) -> pl.DataFrame:
    """Return the runs that came within 5 % of the edge, or beyond: when they first did, and how far they went.

    Args:
        table: measurements of runs.
        run: name of the column that tells runs apart.
        metric: name of the column of the metric; without it no run is known to be near.

    Returns:
        One row for each such run, the earliest first: ``run``, ``time``, ``largest``.
    """
    if metric not in table.columns:
        return pl.DataFrame(schema={run: table.schema[run], "time": pl.Float64, "largest": pl.Float64})
    near = table.filter(pl.col(metric).is_finite() & (pl.col(metric) >= _NEAR * _EDGE))
    return (
        near.group_by(run, maintain_order=True)
        .agg(pl.col("time").min(), pl.col(metric).max().alias("largest"))
        .sort("time", maintain_order=True)
    )


def describe_near_edge(near: pl.DataFrame, runs: int) -> str:
    """Return a line about the runs that came near the edge; empty: none did.

    Args:
        near: what :func:`find_near_edge` returned.
        runs: number of all runs.
    """
    if near.is_empty():
        return ""
    which = f"{near.height} of {runs} runs" if runs > 1 else "the run"
    return (
        f"{which} came within 5 % of the edge of stability ({METRIC} {_EDGE:g}), first at t = {near['time'][0]:.4g}: "
        "take a smaller dynamics.step_size"
    )
