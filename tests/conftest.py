"""Fixtures of all tests, and the order in which the tests run."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from tests.processes import PATIENCE
from tests.slurm.cluster import Cluster, find_obstacle
from tests.slurm.configuration import NODES

# A test's first example pays for imports and shape checks: time says nothing about it.
settings.register_profile("nc_sweeps", deadline=None)
settings.load_profile("nc_sweeps")

#: Modules of long tests, which begin first: those that share a SLURM cluster, and those of which no test shares
#: anything with another.
ON_SLURM = ("tests/launch/test_slurm.py", "tests/launch/test_slurm_settings.py", "tests/slurm/test_cluster.py")
APART = ("tests/test_docs.py", "tests/test_cli.py")

#: Fixtures that start processes, a cluster or a browser. Tests that use one are marked ``processes``, as are those that
#: start processes themselves, and ``make test-fast`` leaves them out.
STARTERS = {"browser", "run_command", "slurm"}

#: Modules whose tests train or compose for minutes; marked ``long``, and left out by ``make test-fast`` too.
LONG = (
    "tests/launch/test_composer.py",
    "tests/launch/test_packed.py",
    "tests/oracle/test_gibbs.py",
    "tests/publish/test_dashboard.py",
    "tests/test_pack.py",
    "tests/theory/test_certificate.py",
    "tests/training/callback/test_other_trainings.py",
    "tests/training/test_batch_norm.py",
    "tests/training/test_deep.py",
    "tests/training/test_ensembles.py",
    "tests/training/test_stability.py",
    "tests/training/test_statements.py",
)


class SharedFixtures(LoadScopeScheduling):
    """Tests that share fixtures run one after another in one of the processes of ``make test``."""

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return "slurm" if module in ON_SLURM else nodeid if module in APART else module


def pytest_xdist_make_scheduler(config, log):
    config.option.loadscopereorder = False
    return SharedFixtures(config, log)


def pytest_collection_modifyitems(items):
    for item in items:
        if STARTERS & set(item.fixturenames):
            item.add_marker("processes")
        if item.nodeid.partition("::")[0] in LONG:
            item.add_marker("long")
    rank = {module: number for number, module in enumerate((*ON_SLURM, *APART))}
    items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(rank)))


@pytest.fixture(autouse=True, scope="session")
def compiled_step():
    """Built before the first test, so that no command has to say that it builds."""
    from nc_sweeps.kernels.build import load_library

    load_library()


@pytest.fixture(autouse=True)
def single_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def run_command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``nc-train`` in an empty directory, as a user would."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "nc_sweeps", *arguments],
            cwd=tmp_path,
            env=os.environ | {"COLUMNS": "100"} | environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """Folder that holds the real MNIST/raw; tests that need it are skipped where it is missing."""
    folder = Path(os.environ.get("NC_SWEEPS_DATA", "data"))
    if not (folder / "MNIST" / "raw" / "train-images-idx3-ubyte").exists():
        pytest.skip(f"no MNIST/raw in {folder.absolute()}; set NC_SWEEPS_DATA")
    return folder


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """A SLURM cluster, started for the first test that asks; skipped where its programs are missing."""
    if obstacle := find_obstacle():
        pytest.skip(obstacle)
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def on_slurm(slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster, to which this process submits; afterwards all nodes are back and idle."""
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    yield slurm
    slurm.cancel_all()
    for node in NODES:
        slurm.start(node)
    slurm.wait_idle()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI nothing may be skipped: a skipped test is a failed one."""
    report = yield
    if os.environ.get("CI") and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report
