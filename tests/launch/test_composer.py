"""The fast composition against Hydra's own."""

import re
from copy import deepcopy

import pytest
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from hydra_plugins.nc_sweeps_launcher.composer import SweepComposer, output_directory
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from nc_sweeps.config import parse
from nc_sweeps.config.composition import VERSION_BASE
from nc_sweeps.config.resolvers import register_resolvers
from nc_sweeps.errors import ConfigError


@pytest.fixture(scope="module")
def loader():
    register_resolvers()
    with initialize_config_module("nc_sweeps.conf", **VERSION_BASE):
        yield GlobalHydra.instance().config_loader()


overrides = st.tuples(
    st.sampled_from(["width=narrow", "width=wide", "width.particles=5", "width.particles=7"]),
    st.sampled_from(["dynamics=sgd", "dynamics=noisy_sgd", "dynamics.batch_size=null", "dynamics.batch_size=3"]),
    st.sampled_from(["dynamics.beta=10", "dynamics.beta=inf", "+dynamics.extra=1", "~separation"]),
    st.sampled_from(["seed=1", "seed=2", "name=a", "name='x y'", "hydra.job.name=other", "dataset.margin=${seed}"]),
    st.sampled_from(["metrics.points=3", "metrics.include=[nc1/*]", "metrics.include=[loss/*]", "metrics.points=4"]),
).flatmap(st.permutations)


@settings(max_examples=12)
@given(jobs=st.lists(overrides, min_size=1, max_size=4))
def test_configs_and_runs_are_those_of_hydra(loader, jobs):
    master = loader.load_configuration("config", ["hydra.verbose=false"], run_mode=RunMode.MULTIRUN)
    composer = SweepComposer(loader, master)
    for job in jobs:
        expected = loader.load_sweep_config(master, job)
        try:
            run = parse(expected, list(expected.hydra.overrides.task))
        except ConfigError as error:
            with pytest.raises(ConfigError, match=f"^{re.escape(str(error))}$"):
                composer.load_sweep_config(master, job)
            continue
        composer.load_sweep_config(master, job)
        assert composer.run(job) == (run, output_directory(deepcopy(expected)))
        found = composer.compose(job)
        assert OmegaConf.to_container(found) == OmegaConf.to_container(expected)
        for node in ("hydra", "dynamics", "metrics"):
            assert OmegaConf.is_struct(found[node]) == OmegaConf.is_struct(expected[node])


def test_errors_are_those_of_hydra(loader):
    master = loader.load_configuration("config", [], run_mode=RunMode.MULTIRUN)
    composer = SweepComposer(loader, master)
    composer.load_sweep_config(master, ["seed=1"])
    for wrong in ("sede=2", "nothing.at.all=2"):
        with pytest.raises(ConfigCompositionException) as expected:
            loader.load_sweep_config(master, [wrong])
        with pytest.raises(ConfigCompositionException, match="Could not override") as found:
            composer.load_sweep_config(master, [wrong])
        assert str(found.value) == str(expected.value)


def test_no_composed_config_is_shared(loader):
    """The launcher writes into the configs it gets."""
    master = loader.load_configuration("config", [], run_mode=RunMode.MULTIRUN)
    composer = SweepComposer(loader, master)
    for _ in range(4):
        composer.run(["seed=1"])
        config = composer.compose(["seed=1"])
        assert config.seed == 1
        config.seed = 5
    assert composer.compose(["seed=2"]).seed == 2


def test_a_named_sweep_is_composed_once(loader, monkeypatch):
    master = loader.load_configuration("config", [], run_mode=RunMode.MULTIRUN)
    composed = []
    compose = loader.load_sweep_config
    monkeypatch.setattr(loader, "load_sweep_config", lambda *job: composed.append(job) or compose(*job))
    composer = SweepComposer(loader, master)
    directories = {composer.run(["name=question", f"width.particles={width}", "seed=1"])[1] for width in range(5, 9)}
    assert len(directories) == 4
    assert {directory.parent.name for directory in directories} == {"question"}
    assert len(composed) == 1
