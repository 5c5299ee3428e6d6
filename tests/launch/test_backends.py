"""The lists of backends, of their settings and of their launchers are one."""

import importlib.metadata

from hydra.core.config_store import ConfigStore
from hydra_plugins.nc_sweeps_launcher import launchers
from nc_launch.backends import BACKENDS
from nc_launch.settings import FROM_THE_RUNS, SETTINGS
from omegaconf import OmegaConf

#: Backend of each launcher, by the full name of the class: Hydra imports the modules of its plugins a second time.
LAUNCHERS = {
    f"{launcher.__module__}.{launcher.__name__}": launcher.backend_name
    for launcher in vars(launchers).values()
    if isinstance(launcher, type) and hasattr(launcher, "backend_name")
}


def test_every_backend_has_settings_and_a_launcher_whose_keys_they_are():
    assert set(BACKENDS) == set(SETTINGS) == set(LAUNCHERS.values())
    choices = ConfigStore.instance().repo["hydra"]["launcher"]
    for name, settings in SETTINGS.items():
        keys = OmegaConf.to_container(choices[f"{name}.yaml"].node)
        assert LAUNCHERS[keys.pop("_target_")] == name
        assert set(keys) == set(settings().to_dict()) - set(FROM_THE_RUNS)


def test_every_launcher_is_an_entry_point():
    """Hydra 1.4 finds it there."""
    points = importlib.metadata.distribution("nc-sweeps").entry_points.select(group="hydra.plugins")
    assert set(LAUNCHERS) <= {point.value.replace(":", ".") for point in points}
