"""The registry of the functions that compute the metrics of networks of particles."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from nc_sweeps.metrics.catalogue import METRICS
from nc_sweeps.training.snapshot import Need, Snapshot

Function = Callable[[Snapshot], Float[Tensor, "run"]]


@dataclass(frozen=True)
class Measurement:
    """The function that computes a metric, and its needs.

    Args:
        function: returns one number for each run of a snapshot.
        needs: what the snapshot has to hold for it, besides the training features.
    """

    function: Function
    needs: frozenset[Need]


#: Every metric that networks of particles have, by its name and in the order of the catalogue.
MEASUREMENTS: dict[str, Measurement] = {}


def computes(name: str, *needs: Need) -> Callable[[Function], Function]:
    """Register a function as the one that computes a metric.

    Args:
        name: name of the metric in the catalogue.
        needs: what the snapshot has to hold for it, besides the training features.

    Raises:
        ValueError: the catalogue has no such metric, or another function computes it.
    """
    if name not in METRICS:
        raise ValueError(f"{name}: the catalogue has no such metric")
    if name in MEASUREMENTS:
        raise ValueError(f"{name}: another function computes this metric")

    def register(function: Function) -> Function:
        MEASUREMENTS[name] = Measurement(function, frozenset(needs))
        return function

    return register
