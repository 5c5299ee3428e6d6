"""What shows a sweep, made ready before there is anything to show."""


def preload_report() -> None:
    """Import what the table, the picture and the report need, so that whoever waits for runs need not wait for it after
    them.

    The JavaScript that draws is not started: it takes gigabytes of address space, and where that is limited the process
    with it.
    """
    from nc_sweeps.report import figures, page, table  # noqa: F401
