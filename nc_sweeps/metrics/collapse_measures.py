"""The measures of collapse, NC1 to NC3, as the catalogue describes them.

The module does not import torch; :mod:`nc_sweeps.metrics.collapse` holds the functions.
"""

from dataclasses import dataclass

from nc_sweeps.metrics.metric import Metric


@dataclass(frozen=True)
class CollapseMeasure(Metric):
    """A measure of collapse, a metric that class statistics of features determine, with or without the linear head W.

    Args:
        needs_head: whether the value depends on W.
    """

    needs_head: bool = False


_COLLAPSED = "all features are equal (‖H̃‖ = 0)"
_ABSENT = "a class has no sample"
_COINCIDE = "two class means coincide"
_ALL_COINCIDE = "all class means coincide"
_FLAT = "class means lie in fewer than q − 1 dimensions"
_INCOMPARABLE = "fewer than two classes have samples, or none has more than one"
_VANISHING = f"{_ABSENT}, or a class mean (the head) vanishes"

#: NC1 to NC3 by name. Each is a metric of the training and of the test features, and is computed by the function of
#: :mod:`nc_sweeps.metrics.collapse` that :func:`function_name` names.
COLLAPSE_MEASURES: dict[str, CollapseMeasure] = {
    "nc1": CollapseMeasure("NC1", "NC1", "NC1 = ‖H_w‖²/‖H̃‖², class k weighing n_k/n", f"{_COLLAPSED}; {_INCOMPARABLE}"),
    "nc1/trace_ratio": CollapseMeasure(
        "NC1, trace ratio",
        "trace ratio",
        "tr Σ_W/tr Σ_B = NC1/(1 − NC1), class k weighing n_k/n",
        f"{_ALL_COINCIDE}; {_INCOMPARABLE}",
    ),
    "nc1/pseudo_inverse": CollapseMeasure(
        "NC1, pseudo-inverse",
        "NC1 pinv",
        "tr(Σ_W Σ_B⁺)/q, Σ_B⁺ of rank q − 1, class k weighing n_k/n, q the classes with samples (Papyan, Han, Donoho)",
        f"{_FLAT}; {_INCOMPARABLE}",
    ),
    "nc1/cdnv": CollapseMeasure(
        "CDNV, mean",
        "CDNV",
        "class-distance normalised variance, mean over pairs (Galanti et al.)",
        f"{_COINCIDE}; {_INCOMPARABLE}",
    ),
    "nc1/cdnv_worst": CollapseMeasure(
        "CDNV, worst pair",
        "worst CDNV",
        "class-distance normalised variance, largest over pairs",
        f"{_COINCIDE}; {_INCOMPARABLE}",
    ),
    "nc2/norm_variation": CollapseMeasure(
        "NC2, norms from a simplex", "NC2 norms", "std_k‖μ̃_k‖/mean_k‖μ̃_k‖: equal norms of a simplex", _VANISHING
    ),
    "nc2/simplex_angle": CollapseMeasure(
        "NC2, angles from a simplex", "NC2 angles", "mean_{k≠l}|cos(μ̃_k, μ̃_l) + 1/(q−1)|", _VANISHING
    ),
    "nc2/simplex_distance": CollapseMeasure(
        "NC2, distance from a simplex", "NC2 simplex", "‖M̃M̃ᵀ/‖M̃M̃ᵀ‖ − (I − 11ᵀ/q)/√(q−1)‖", _VANISHING
    ),
    "nc2/frame_norm_variation": CollapseMeasure(
        "NC2, norms from a frame",
        "NC2 frame norms",
        "std_k‖μ_k‖/mean_k‖μ_k‖: equal norms of an orthogonal frame",
        _VANISHING,
    ),
    "nc2/frame_angle": CollapseMeasure(
        "NC2, angles from a frame", "NC2 frame angles", "mean_{k≠l}|cos(μ_k, μ_l)|", _VANISHING
    ),
    "nc2/frame_distance": CollapseMeasure("NC2, distance from a frame", "NC2 frame", "‖MMᵀ/‖MMᵀ‖ − I/√q‖", _VANISHING),
    "nc3/duality": CollapseMeasure(
        "NC3, duality", "NC3", "‖Wᵀ/‖W‖ − M̃/‖M̃‖‖ (Papyan, Han, Donoho)", _VANISHING, needs_head=True
    ),
    "nc3/frame_duality": CollapseMeasure(
        "NC3, duality with a frame", "NC3 frame", "‖Wᵀ/‖W‖ − M/‖M‖‖", _VANISHING, needs_head=True
    ),
    "nc3/misalignment": CollapseMeasure(
        "NC3, misalignment", "NC3 angles", "1 − mean_k cos(w_k, μ̃_k)", _VANISHING, needs_head=True
    ),
    "nc3/product_distance": CollapseMeasure(
        "NC3, product from a simplex",
        "NC3 product",
        "‖M̃W/‖M̃W‖ − (I − 11ᵀ/q)/√(q−1)‖ (Zhu et al.)",
        _VANISHING,
        needs_head=True,
    ),
}


def function_name(measure: str) -> str:
    """Return the name of the function in :mod:`nc_sweeps.metrics.collapse` that computes a measure of collapse.

    Args:
        measure: a key of :data:`COLLAPSE_MEASURES`, as ``nc1/cdnv``.
    """
    return measure.replace("/", "_")
