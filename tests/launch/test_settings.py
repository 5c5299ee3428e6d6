"""The settings of the launchers: what is refused, how values are written, and what sbatch gets."""

import shlex

import pytest
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from nc_launch.backends import LaunchError, SlurmBackend
from nc_launch.settings import LaunchSettings, SlurmSettings
from nc_launch.task import Task

from nc_sweeps.composition import VERSION_BASE
from nc_sweeps.config import explain_config_error
from nc_sweeps.errors import ConfigError
from nc_sweeps.resolvers import register_resolvers


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"runs_per_gpu": 0}, "runs_per_gpu=0: must be at least 1, or null"),
        ({"pack_minutes": -1.0}, "pack_minutes=-1.0: must be at least 0"),
        ({"timeout_min": 0}, "timeout_min=0: must be at least 1"),
        ({"timeout_min": 2}, "timeout_min=2: must be at least 4, as jobs are warned 120 seconds"),
        ({"timeout_min": 3}, "timeout_min=3: must be at least 4"),
        ({"timeout_min": 10, "signal_delay_s": 600}, "timeout_min=10: must be at least 12"),
        ({"signal_delay_s": -1}, "signal_delay_s=-1: must be between 0 and 65535"),
        ({"mem_gb": 0.0}, "mem_gb=0.0: must be more than 0, or null"),
        ({"mem_gb": float("nan")}, "mem_gb=nan: must be more than 0, or null"),
        ({"gpus_per_node": -1}, "gpus_per_node=-1: must be at least 0"),
        ({"nodes": 0}, "nodes=0: must be at least 1"),
        ({"array_parallelism": 0}, "array_parallelism=0: must be at least 1"),
        (
            {"additional_parameters": {"ntasks-per-node": 3}},
            "ntasks-per-node: set hydra.launcher.gpus_per_node instead",
        ),
        ({"additional_parameters": {"time": 3}}, "time: set hydra.launcher.timeout_min instead"),
    ],
)
def test_what_no_cluster_could_do_is_refused_in_a_line(values, message):
    with pytest.raises(ConfigError) as info:
        SlurmSettings(**values).check()
    assert str(info.value).startswith("hydra.launcher.")
    assert message in str(info.value)


def test_the_defaults_are_right_and_so_is_the_shortest_time():
    for settings in (LaunchSettings(), SlurmSettings(), SlurmSettings(timeout_min=4), SlurmSettings(mem_gb=0.5)):
        settings.check()


@pytest.fixture(scope="module")
def compose():
    """Compose a multirun with settings of the launcher; return the settings."""
    register_resolvers()
    with initialize_config_module("nc_sweeps.conf", **VERSION_BASE):
        loader = GlobalHydra.instance().config_loader()

        def compose(*overrides):
            given = ["hydra/launcher=slurm", *(f"hydra.launcher.{override}" for override in overrides)]
            return loader.load_configuration("config", given, run_mode=RunMode.MULTIRUN).hydra.launcher

        yield compose


@pytest.mark.parametrize(
    "override",
    ["additional_parameters={requeue:true}", "additional_parameters.requeue=true"],
)
def test_parameters_of_sbatch_are_given_as_the_docs_say(compose, override):
    assert compose(override).additional_parameters == {"requeue": True}
    with pytest.raises(HydraException):
        compose("typo=3")


@pytest.mark.parametrize(
    ("typed", "key", "meant"),
    [
        ("partition=gpu,long", "partition", "gpu,long"),
        ("constraint=a&b", "constraint", "a&b"),
        ('setup=[echo "hi"]', "setup", ['echo "hi"']),
        ("setup=[export A=1,module load a; module load b]", "setup", ["export A=1", "module load a; module load b"]),
        ("setup=module load a,module load b", "setup", ["module load a", "module load b"]),
        ("srun_args=[--mpi=pmix]", "srun_args", ["--mpi=pmix"]),
        ("additional_parameters={exclude:f1,f2,mail-type:END}", "additional_parameters",
         {"exclude": "f1,f2", "mail-type": "END"}),
    ],
)  # fmt: skip
def test_a_value_that_needs_quotes_is_refused_with_them(compose, typed, key, meant):
    with pytest.raises(HydraException) as info:
        compose(typed)
    message = explain_config_error(info.value)
    assert "\n" not in message
    start = f"'hydra.launcher.{key}={'[' * isinstance(meant, list)}"
    quoted = shlex.split(message[message.rindex(start) if isinstance(meant, list) else message.index(start) :])[0]
    assert compose(quoted.removeprefix("hydra.launcher."))[key] == meant


def test_no_array_is_left_behind_where_a_later_one_is_refused(monkeypatch, tmp_path):
    backend, opened, cancelled = SlurmBackend(SlurmSettings()), [], []

    class Array:
        def __init__(self, *arguments):
            opened.append(arguments)
            if len(opened) == 2:
                raise LaunchError("QOSMaxSubmitJobPerUserLimit")

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def submit(self, task):
            self.job_id = "7_0"
            return self

    monkeypatch.setattr(backend, "open_array", Array)
    monkeypatch.setattr(backend, "cancel", cancelled.extend)
    monkeypatch.setattr("nc_launch.backends.slurm._find_largest_array", lambda: 1)
    with pytest.raises(LaunchError, match="QOSMax"):
        backend.start([Task(tmp_path, (0,)), Task(tmp_path, (1,))], tmp_path, tmp_path)
    assert cancelled == ["7_0"]


def test_a_folder_that_sbatch_takes_for_a_pattern_is_refused(tmp_path):
    with pytest.raises(LaunchError, match="'%' in its name"):  # noqa: SIM117
        with SlurmBackend(SlurmSettings()).open_array(tmp_path / "50%j", None):
            pass
