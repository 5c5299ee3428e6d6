"""docs/configuration.md against the schema and the composed config of every preset."""

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

import conf
from nc_sweeps.composition import compose_config
from nc_sweeps.config import CHOICES, list_keys

CONF = Path(conf.__file__).parent
CONFIGURATION = CONF.parent / "docs" / "configuration.md"
PRESETS = [(group, path.stem) for group in CHOICES for path in sorted(CONF.glob(f"{group}/*.yaml"))]


def read_rows(key: str, preset: str) -> list[tuple[str, str]]:
    """Return the defaults and meanings that the reference gives a key of a preset."""
    rows = [line.strip("| ").split(" | ") for line in CONFIGURATION.read_text().splitlines() if line.startswith("| `")]
    return [
        (default.strip("` "), text)
        for name, presets, default, _, text in (row for row in rows if len(row) == 5)
        if name == f"`{key}`" and preset in (presets.split(", ") if presets != "all" else [preset])
    ]


@pytest.mark.parametrize(("group", "preset"), PRESETS)
def test_each_key_of_each_preset_has_one_row_with_its_default_and_meaning(group, preset):
    values = OmegaConf.to_container(compose_config([f"{group}={preset}"])[group])
    keys = list(list_keys(CHOICES[group][values["name"]], f"{group}."))
    assert {key.name for key in keys} == {f"{group}.{name}" for name in values}
    for key in keys:
        ((default, text),) = read_rows(key.name, preset)
        assert text == key.text
        value = values[key.name.removeprefix(f"{group}.")]
        if isinstance(value, str):
            assert default == ("" if key.name == f"{group}.name" else value)
        else:
            assert OverridesParser.create().parse_override(f"{key.name}={default}").value() == value
