"""The fast composition against Hydra's own."""

import re
from copy import deepcopy

import pytest
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from hydra_plugins.nc_sweeps_launcher.composer import SweepComposer, find_output_directory
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from nc_sweeps.composition import VERSION_BASE
from nc_sweeps.config import parse, variations
from nc_sweeps.errors import ConfigError
from nc_sweeps.resolvers import register_resolvers
from nc_sweeps.run_spec import RunSpec


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
        assert composer.make_spec(job) == RunSpec(run, list(job), find_output_directory(deepcopy(expected)))
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
    for seed in (1, 2, 3):  # the second is composed by Hydra, the third is not
        composer.make_spec([f"seed={seed}"])
    for _ in range(4):
        composer.make_spec(["seed=1"])
        config = composer.compose(["seed=1"])
        assert config.seed == 1
        config.seed = 5
        composer.compose(["seed=3"]).seed = 5
    assert composer.compose(["seed=2"]).seed == 2
    assert composer.compose(["seed=3"]).seed == 3


@pytest.fixture
def composed(loader, monkeypatch):
    """The jobs that Hydra composes in a test."""
    jobs = []
    compose = loader.load_sweep_config
    monkeypatch.setattr(loader, "load_sweep_config", lambda master, job: jobs.append(job) or compose(master, job))
    return jobs


def test_hydra_composes_a_named_sweep_once_and_checks_it_once(loader, composed):
    master = loader.load_configuration("config", [], run_mode=RunMode.MULTIRUN)
    composer = SweepComposer(loader, master)
    specs = [composer.make_spec(["name=question", f"width.particles={width}", "seed=1"]) for width in range(5, 9)]
    assert len({spec.directory for spec in specs}) == 4
    assert {spec.directory.parent.name for spec in specs} == {"question"}
    assert len(composed) == 2


#: Names of the composer's module. Hydra executes it again when it looks for plugins, as it does in other tests.
COMPOSER = SweepComposer._vary_config.__globals__


def _fail(*arguments, **options):
    raise AttributeError("renamed")


@pytest.mark.parametrize(
    ("names", "name", "changed"),
    [
        (COMPOSER, "write_override_dirname", _fail),
        (
            COMPOSER,
            "write_override_dirname",
            lambda config, overrides: OmegaConf.update(config, "hydra.job.override_dirname", "another"),
        ),
        (vars(variations), "read_value", _fail),
        (vars(variations), "write_value", lambda node, value: None),
    ],
)
def test_hydra_composes_every_job_where_a_private_name_fails(loader, composed, monkeypatch, names, name, changed):
    master = loader.load_configuration("config", [], run_mode=RunMode.MULTIRUN)
    jobs = [[f"width.particles={width}"] for width in range(5, 9)]
    right = SweepComposer(loader, master)
    expected = [(right.make_spec(job), right.compose(job)) for job in jobs]
    monkeypatch.setitem(names, name, changed)
    composed.clear()
    composer = SweepComposer(loader, master)
    assert [composer.make_spec(job) for job in jobs] == [spec for spec, _ in expected]
    assert len(composed) == len(jobs)
    assert [composer.compose(job) for job in jobs] == [config for _, config in expected]
