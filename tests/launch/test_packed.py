"""``hydra/launcher=packed`` keeps Hydra's contract for every app, and trains runs of this one together."""

import pytest
from hydra import version
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.test_utils.launcher_common_tests import BatchedSweeperTestSuite, IntegrationTestSuite, LauncherTestSuite

from nc_sweeps.composition import VERSION_BASE


@pytest.fixture(autouse=True)
def hydra_defaults():
    """The suites of Hydra 1.3 are written for its defaults, those of 1.1; other tests of this process choose 1.3."""
    if not VERSION_BASE:
        yield
        return
    version.setbase("1.1")
    yield
    version.setbase("1.3")


def test_discovery():
    assert "PackedLauncher" in {launcher.__name__ for launcher in Plugins.instance().discover(Launcher)}


@pytest.mark.parametrize(("launcher_name", "overrides"), [("packed", [])])
class TestPackedLauncher(LauncherTestSuite):
    """Hydra's own tests of a launcher."""


@pytest.mark.parametrize(("launcher_name", "overrides"), [("packed", ["hydra.sweeper.max_batch_size=2"])])
class TestPackedLauncherInBatches(BatchedSweeperTestSuite):
    """Hydra's own tests of a launcher under a sweeper that asks in batches."""


@pytest.mark.parametrize(
    ("task_launcher_cfg", "extra_flags"),
    [({}, ["-m", "hydra/launcher=packed", "hydra.hydra_logging.formatters.simple.format='[HYDRA] %(message)s'"])],
)
class TestPackedLauncherIntegration(IntegrationTestSuite):
    """Hydra's own tests of a launcher in processes of its own."""
