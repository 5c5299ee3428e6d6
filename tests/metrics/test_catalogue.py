"""The catalogue names what is computed, and says how it is shown."""

import inspect

import pytest

from nc_sweeps.metrics.catalogue import METRICS
from nc_sweeps.metrics.collapse_measures import COLLAPSE_MEASURES, function_name
from tests.metrics.samples import MEASURES


def test_every_measure_of_collapse_has_a_function_and_every_function_is_one():
    takes_head = {name: "W" in inspect.signature(function).parameters for name, function in MEASURES.items()}
    assert takes_head == {function_name(name): measure.needs_head for name, measure in COLLAPSE_MEASURES.items()}


@pytest.mark.parametrize("name", COLLAPSE_MEASURES)
def test_a_measure_of_collapse_is_a_metric_of_both_sets(name):
    train, test = METRICS[f"{name}/train"], METRICS[f"{name}/test"]
    assert train.undefined == test.undefined == COLLAPSE_MEASURES[name].undefined
    assert train.title == f"{COLLAPSE_MEASURES[name].title}, training"
    assert test.definition == f"{COLLAPSE_MEASURES[name].definition}, test features"


def test_titles_and_headings_tell_metrics_apart_and_headings_fit_a_table():
    for shown in ([metric.title for metric in METRICS.values()], [metric.heading for metric in METRICS.values()]):
        assert all(shown)
        assert len(set(shown)) == len(shown)
    assert all(len(word) <= 12 for metric in METRICS.values() for word in metric.heading.split())
