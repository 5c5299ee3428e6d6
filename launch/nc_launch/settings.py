"""Settings of the launchers: the keys of ``hydra.launcher``, and over how many devices the runs are spread."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Self

from nc_sweeps.errors import ConfigError

#: Seconds by which SLURM may send its warning early.
_EARLY = 60
#: Largest number of seconds before the time limit at which SLURM can warn.
_LONGEST_WARNING = 65_535
#: Parameters of sbatch on which the plan relies, and the keys of ``hydra.launcher`` that decide them.
_DECIDED_BY = {
    "array": "array_parallelism",
    "nodes": "nodes",
    "ntasks": "gpus_per_node",
    "ntasks_per_node": "gpus_per_node",
    "time": "timeout_min",
    "signal": "signal_delay_s",
}


@dataclass(frozen=True)
class LaunchSettings:
    """Settings that both launchers have, with the defaults of ``hydra/launcher=packed``.

    Args:
        runs_per_gpu: runs of equal shape that train at once on a GPU, or on the CPU; None: as many as memory holds.
        max_runs_per_pack: largest number of runs in a pack; None: no limit.
        pack_minutes: predicted work, in minutes on this machine, below which no further worker is started.
        dry_run: print the plan and launch nothing.
        wait: wait for the runs; False: launch them, print how to come back, and leave.
        devices: devices of one node that share the particles of each run; comes from the runs, not from the user.
        device_nodes: nodes that share the particles of each run; comes from the runs, not from the user.
    """

    runs_per_gpu: int | None = 32
    max_runs_per_pack: int | None = None
    pack_minutes: float = 0.0
    dry_run: bool = False
    wait: bool = True
    devices: int = 1
    device_nodes: int = 1

    @property
    def shares_packs(self) -> bool:
        """Whether several processes share the particles of one pack."""
        return self.devices * self.device_nodes > 1

    def check(self) -> None:
        """Refuse values that cannot be.

        Raises:
            ConfigError: a value is wrong.
        """
        for name in ("runs_per_gpu", "max_runs_per_pack"):
            self._check(name, getattr(self, name) is None or getattr(self, name) >= 1, "at least 1, or null")
        self._check("pack_minutes", self.pack_minutes >= 0, "at least 0")

    def _check(self, name: str, is_right: bool, right: str) -> None:
        if not is_right:
            raise ConfigError(f"hydra.launcher.{name}={getattr(self, name)}: must be {right}")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as ``submission.json`` holds them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Return settings from their keys and values; a missing key has its default, an unknown one is ignored."""
        known = {own.name for own in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


@dataclass(frozen=True)
class SlurmSettings(LaunchSettings):
    """Settings of ``hydra/launcher=slurm``; names and meanings are submitit's where it has the same parameter.

    Args:
        array_parallelism: jobs of the array that run at once; the runs are spread over as many.
        gpus_per_node: GPUs of each node of a job; each takes a pack of its own; 0: train on the CPU.
        gpu_type: type of the GPUs, as the cluster names it.
        nodes: nodes of one job.
        signal_delay_s: seconds between the warning, on which the runs are saved, and the time limit.
        setup: shell commands before Python starts.
        python: command that starts Python, such as ``apptainer exec --nv image.sif python``; None: this interpreter.
        container_image: container image, for clusters with pyxis.
        srun_args: further arguments of srun.
        additional_parameters: further parameters of sbatch.
    """

    runs_per_gpu: int | None = None
    pack_minutes: float = 10.0
    job_name: str = "nc-train"
    array_parallelism: int = 64
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodes: int = 1
    gpus_per_node: int = 1
    gpu_type: str | None = None
    cpus_per_task: int = 4
    mem_gb: float | None = None
    timeout_min: int = 240
    signal_delay_s: int = 120
    setup: list[str] = field(default_factory=list)
    python: str | None = None
    container_image: str | None = None
    srun_args: list[str] = field(default_factory=list)
    additional_parameters: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse values that sbatch would refuse, or with which no run could be saved in time."""
        super().check()
        for name in ("array_parallelism", "nodes", "cpus_per_task", "timeout_min"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        self._check("gpus_per_node", self.gpus_per_node >= 0, "at least 0")
        self._check("mem_gb", self.mem_gb is None or 0 < self.mem_gb < math.inf, "more than 0, or null")
        self._check("signal_delay_s", 0 <= self.signal_delay_s <= _LONGEST_WARNING, f"between 0 and {_LONGEST_WARNING}")
        enough = (self.signal_delay_s + _EARLY) // 60 + 1
        is_enough = self.timeout_min >= enough
        self._check("timeout_min", is_enough, f"at least {enough}, as jobs are warned {self.signal_delay_s} seconds "
                    "(signal_delay_s) before their end, and up to a minute earlier")  # fmt: skip
        for name in self.additional_parameters:
            if key := _DECIDED_BY.get(name.replace("-", "_")):
                raise ConfigError(f"hydra.launcher.additional_parameters.{name}: set hydra.launcher.{key} instead")


#: Settings that follow from the runs; all others are keys of ``hydra.launcher``.
FROM_THE_RUNS = ("devices", "device_nodes")

#: Class of the settings of each launcher, by its name in ``hydra/launcher``.
SETTINGS: dict[str, type[LaunchSettings]] = {"packed": LaunchSettings, "slurm": SlurmSettings}
