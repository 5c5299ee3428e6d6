"""Backends run packs: on this machine or on a SLURM cluster. Both start their jobs through submitit."""

from nc_launch.backends.base import Backend, LaunchError
from nc_launch.backends.local import LocalBackend
from nc_launch.backends.slurm import SlurmBackend
from nc_launch.submission import Origin

__all__ = ["BACKENDS", "Backend", "LaunchError", "LocalBackend", "SlurmBackend", "make_backend"]

#: Every backend by its name in ``hydra/launcher``.
BACKENDS: dict[str, type[Backend]] = {"packed": LocalBackend, "slurm": SlurmBackend}


def make_backend(origin: Origin) -> Backend:
    """Return the backend of a submission with its settings."""
    return BACKENDS[origin.backend_name](origin.settings)
