"""A metric as the catalogue describes it."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """A number that is measured along training: its definition and how it is shown.

    Args:
        title: on axes and in reports.
        heading: a few short words, for the column of a table in a terminal.
        definition: in the symbols of the paper.
        undefined: when the value is NaN; empty if it never is.
        best: whether the smallest or the largest value is the best.
        networks: those that have it: any, those of particles, deep ones for their parameters, those with two linear
            layers at the end, or those whose loss holds scores against targets.
        scale: of its axes; linear for shares and for values that may be zero or negative.
    """

    title: str
    heading: str
    definition: str
    undefined: str = ""
    best: Literal["min", "max"] = "min"
    networks: Literal["any", "particles", "parameters", "two layers", "targets"] = "any"
    scale: Literal["log", "linear"] = "log"
