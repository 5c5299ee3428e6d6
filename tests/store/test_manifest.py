"""The manifest, against the run specifications that were written into it."""

import json
import math

import pytest

from nc_sweeps.config import compute_signature
from nc_sweeps.errors import StoreError
from nc_sweeps.run_spec import RunSpec
from nc_sweeps.store import manifest
from nc_sweeps.store.sweep_folder import SweepFolder
from tests.configs import tiny

KINDS = (
    ["seed=1"],
    ["seed=2", "dynamics.beta=inf", "separation.margin=-0.1"],
    ["seed=3", "dynamics.schedule=[{after: 0.5, step_size: 0.1}]"],
    ["seed=4", "dynamics.schedule=[{after: 0.25, step_size: 0.2}]", "dynamics.batch_size=3"],
    ["seed=5", "dataset=gaussian", "model.truncation=7"],
)


def make_specs(sweep, *kinds):
    configs = [(tiny(*overrides), overrides) for overrides in kinds]
    return [RunSpec(config, overrides, sweep / compute_signature(config)) for config, overrides in configs]


def test_what_was_asked_for_comes_back(tmp_path):
    specs = make_specs(tmp_path, *KINDS)
    path = manifest.write(tmp_path, specs[:3], {"overrides": ["a"]}, {"host": "here"})
    manifest.write(tmp_path, specs[2:], {"overrides": ["b"]}, {"host": "here"})
    assert SweepFolder(tmp_path).read_specs() == specs
    assert SweepFolder(tmp_path).read_specs(path) == specs[:3]
    assert [entry["invocation"]["overrides"] for entry in SweepFolder(tmp_path).read_invocations()] == [["a"], ["b"]]


def test_it_is_json_that_any_reader_accepts(tmp_path):
    path = manifest.write(tmp_path, make_specs(tmp_path, *KINDS), {}, {})

    def refuse(word):
        raise AssertionError(word)

    content = json.loads(path.read_text(), parse_constant=refuse)
    assert len(content["bases"]) == 3  # plain, with a schedule, of another data set
    assert content["runs"][1]["changes"].keys() == {"seed", "dataset.seed", "separation.margin", "dataset.margin"}
    assert math.isinf(SweepFolder(tmp_path).read_specs()[1].config.dynamics.beta)


def test_damage_is_reported_in_one_line(tmp_path):
    path = manifest.write(tmp_path, make_specs(tmp_path, ["seed=1"], ["seed=2"]), {}, {})
    content = json.loads(path.read_text())
    content["runs"][1]["changes"]["seed"] = 7
    path.write_text(json.dumps(content))
    with pytest.raises(StoreError, match="is not what its signature says"):
        SweepFolder(tmp_path).read_specs()
    content["runs"][1]["changes"]["seed"] = -7
    path.write_text(json.dumps(content))
    with pytest.raises(StoreError, match="seed=-7"):
        SweepFolder(tmp_path).read_specs()
    path.write_text("{")
    with pytest.raises(StoreError, match="cannot be read"):
        SweepFolder(tmp_path).read_specs()
