"""Errors that the user can mend. The message is one line: what is wrong, where, and what would be right."""


class UserError(Exception):
    """Base of all of them; ``nc-train`` prints the message alone and exits with 1."""


class ConfigError(UserError):
    """A configuration that cannot be run."""


class DataError(UserError):
    """A data set that cannot be had."""


class StoreError(UserError):
    """A stored file that cannot be read."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory of the machine or of a GPU was not enough."""
    # torch raises a bare RuntimeError for main memory and a subclass of it for a GPU's.
    told = str(error).lower()
    allocation = "can't allocate memory" in told or "out of memory" in told
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and allocation)


def reason(error: BaseException) -> str:
    """One line for any error."""
    if is_out_of_memory(error):
        return "out of memory; take fewer particles, features, dimensions or samples a class"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    lines = str(error).splitlines()
    first = lines[0] if lines else ""
    return first if isinstance(error, UserError) else f"{type(error).__name__}: {first}"
