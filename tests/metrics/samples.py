"""Samples with labels, and all measures of collapse of their class statistics."""

import inspect

import numpy as np
import torch
from hypothesis import strategies as st

from nc_sweeps.metrics import collapse

#: All functions that measure the collapse of class statistics, by name.
MEASURES = {name: f for name, f in vars(collapse).items() if name.startswith(("nc1", "nc2", "nc3"))}
NC1 = [name for name in MEASURES if name.startswith("nc1")]
NC2 = [name for name in MEASURES if name.startswith("nc2")]
NC3 = [name for name in MEASURES if name.startswith("nc3")]


def targets(labels, q):
    return torch.nn.functional.one_hot(torch.as_tensor(labels).long(), q).double()


@st.composite
def samples(draw, every_class=True):
    """Draw features (n p), labels and q; classes are balanced or not, collapsed or not, with or without an offset."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    q, p = draw(st.integers(2, 5)), draw(st.integers(1, 7))
    per_class = draw(st.integers(1, 8))
    if draw(st.booleans()):
        labels = np.repeat(np.arange(q), per_class)
    else:
        labels = rng.integers(q, size=q * per_class)
        labels = np.concatenate([np.arange(q), labels]) if every_class else labels
    labels = rng.permutation(labels)
    spread = draw(st.sampled_from([1e-6, 0.1, 3.0]))
    offset = draw(st.sampled_from([0.0, 1.0, 100.0]))
    H = rng.standard_normal((q, p))[labels] + spread * rng.standard_normal((len(labels), p)) + offset
    return H, labels, q


def compute_measures(statistics, W):
    """Return the value of every function, found by the names of its arguments and without the catalogue."""
    arguments = {"statistics": statistics, "W": W}
    return {name: f(*(arguments[a] for a in inspect.signature(f).parameters)) for name, f in MEASURES.items()}
