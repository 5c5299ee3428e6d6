"""Parsing a variation of a config against composing and parsing it in full."""

from copy import deepcopy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from nc_sweeps.composition import compose_config
from nc_sweeps.config import Variations, parse
from nc_sweeps.errors import ConfigError

VALUES = {
    "width.particles": st.sampled_from([1, 7, 0, "x"]),
    "seed": st.integers(-1, 3),
    "dataset.seed": st.sampled_from([5, None]),
    "separation.margin": st.sampled_from([0.1, -0.2, 5, "wide"]),
    "dynamics.beta": st.sampled_from([1, 10.0, "inf", 0]),
    "dynamics.batch_size": st.sampled_from([None, 3, 1.5]),
    "dynamics.schedule.0.step_size": st.sampled_from([0.25, -1]),
    "dynamics.lambda_w": st.just(0.5),
    "model.train_head": st.booleans(),
    "data_dir": st.sampled_from(["a", "b c"]),
    "metrics.points": st.integers(0, 9),
}
BASES = (
    ["dynamics=noisy_sgd", "dynamics.schedule=[{after: 0.5, step_size: 0.1}]"],
    ["dataset=gaussian", "dynamics.schedule=[{after: 0.5, step_size: '${...step_size}'}]", "dynamics.lambda_w=${seed}"],
)


def parsed(of):
    try:
        return of()
    except ConfigError as error:
        return str(error).split(":")[0]  # which key: OmegaConf words the same mistake in two ways


@pytest.fixture(scope="module")
def bases():
    return [compose_config(overrides) for overrides in BASES]


@settings(max_examples=25)
@given(data=st.data(), names=st.sets(st.sampled_from(sorted(VALUES)), min_size=1))
def test_a_variation_is_what_full_parsing_gives(bases, data, names):
    base = data.draw(st.sampled_from(bases))
    variations = Variations(base)
    for _ in range(2):
        values = {name: data.draw(VALUES[name]) for name in sorted(names)}
        overrides = [f"{name}={value}" for name, value in values.items()]
        config = deepcopy(base)

        def in_full(config=config, values=values, overrides=overrides):
            for name, value in values.items():
                OmegaConf.update(config, name, value)
            return parse(config, overrides)

        found, expected = parsed(lambda v=values, o=overrides: variations.parse(v, o)), parsed(in_full)
        if isinstance(expected, str) and len(names) > 1:  # of two mistakes either may be named
            assert isinstance(found, str)
        else:
            assert found == expected


def test_unknown_keys_are_refused_as_ever():
    config = compose_config()
    with pytest.raises(ConfigError, match=r"unknown key 'width\.particle'; the nearest key is 'width\.particles'"):
        Variations(config).parse({"width.particle": 3})
