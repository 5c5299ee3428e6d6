"""Numbers in the sentences that a user reads."""


def format_count(number: int, thing: str) -> str:
    """Return a number of things in words, such as ``1 run`` or ``2 runs``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
