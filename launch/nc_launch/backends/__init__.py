"""Where packs run: on this machine or on a SLURM cluster. Both backends start jobs through submitit."""

from nc_launch.backends.base import Backend, LaunchError
from nc_launch.backends.local import LocalBackend
from nc_launch.backends.slurm import SlurmBackend

__all__ = ["BACKENDS", "Backend", "LaunchError", "LocalBackend", "SlurmBackend"]

#: Every backend by its name in ``hydra/launcher``.
BACKENDS: dict[str, type[Backend]] = {"packed": LocalBackend, "slurm": SlurmBackend}
