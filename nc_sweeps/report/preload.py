"""Imports that a launcher does while it waits for its jobs."""


def preload_report() -> None:
    """Import what the table, the picture and the report need, so that the results are shown as soon as training ends.

    Vega's JavaScript engine is not started: it takes gigabytes of address space, and would end the process where that
    is limited.
    """
    from nc_sweeps.report import figures, page, table  # noqa: F401
