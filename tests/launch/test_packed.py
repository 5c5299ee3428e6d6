"""``hydra/launcher=packed`` keeps Hydra's contract for every app, and trains runs of this one together."""

import pytest
from hydra import version
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.test_utils.launcher_common_tests import BatchedSweeperTestSuite, IntegrationTestSuite, LauncherTestSuite


@pytest.fixture(autouse=True)
def hydra_defaults():
    """The suites are written for Hydra's defaults; importing nc-train sets its version base for the process."""
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
