"""Errors that the user can mend. Each has one line as its message: what is wrong, where, and what would be right."""


class UserError(Exception):
    """An error that the user can mend; commands print its message alone and exit with 1."""


class ConfigError(UserError):
    """A configuration that cannot be run."""


class DataError(UserError):
    """A data set that cannot be had."""


class StoreError(UserError):
    """A stored file that cannot be read."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the memory of the machine or of a GPU was too small."""
    # torch raises a bare RuntimeError for main memory and a subclass of it for a GPU's.
    message = str(error).lower()
    is_of_torch = "can't allocate memory" in message or "out of memory" in message
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and is_of_torch)


def explain_error(error: BaseException) -> str:
    """Return one line that says what went wrong, for any error."""
    if is_out_of_memory(error):
        return "out of memory; take fewer particles, features, dimensions or samples a class"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    lines = str(error).splitlines()
    first = lines[0] if lines else ""
    return first if isinstance(error, UserError) else f"{type(error).__name__}: {first}"
