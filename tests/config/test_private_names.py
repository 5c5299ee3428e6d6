"""The private names of Hydra and OmegaConf: used in one module, and dispensable."""

import re
from pathlib import Path

import pytest

from nc_sweeps.composition import compose_config
from nc_sweeps.config import Variations, private_names

ROOT = Path(__file__).parents[2]

_PRIVATE = re.compile(r"hydra\._internal|omegaconf\._|\._get_node\(|\._set_value\(|\._value\(\)|\._apply_overrides")


def test_one_module_uses_them():
    modules = [path for room in ("nc_sweeps", "launch") for path in (ROOT / room).glob("**/*.py")]
    users = [path for path in modules if _PRIVATE.search(path.read_text())]
    assert users == [ROOT / "nc_sweeps" / "config" / "private_names.py"]


@pytest.fixture(autouse=True)
def fresh():
    private_names.are_nodes_reliable.cache_clear()
    yield
    private_names.are_nodes_reliable.cache_clear()


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("find_node", lambda container, key: None),
        ("read_value", lambda node: 3),
        ("write_value", lambda node, value: None),
    ],
)
def test_nodes_are_not_relied_on_where_one_of_them_does_something_else(monkeypatch, name, changed):
    assert private_names.are_nodes_reliable()
    private_names.are_nodes_reliable.cache_clear()
    monkeypatch.setattr(private_names, name, changed)
    assert not private_names.are_nodes_reliable()


def test_variations_are_the_same_without_them(monkeypatch):
    config = compose_config(["dynamics=noisy_sgd"])
    changes = [{"width.particles": width, "seed": 3, "dynamics.batch_size": None} for width in (5, 6)]
    expected = [Variations(config).parse(values) for values in changes]
    monkeypatch.setattr("nc_sweeps.config.variations.are_nodes_reliable", lambda: False)
    variations = Variations(config)
    assert [variations.parse(values) for values in changes] == expected
