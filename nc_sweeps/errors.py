"""Errors that the user can mend. The message is one line: what is wrong, where, and what would be right."""


class UserError(Exception):
    """Base of all of them; ``nc-train`` prints the message alone and exits with 1."""


class ConfigError(UserError):
    """A configuration that cannot be run."""


class DataError(UserError):
    """A data set that cannot be had."""


class StoreError(UserError):
    """A stored file that cannot be read."""
