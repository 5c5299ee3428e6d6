"""Every metric by its stable name: what it is and when it is undefined (NaN).

Free of torch, so that a configuration can be checked, completed and explained without waiting for it.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """What a metric means.

    Args:
        text: definition, in the symbols of the paper.
        undefined: when the value is NaN; empty if it never is.
        best: whether the smallest or the largest value is the best.
    """

    text: str
    undefined: str = ""
    best: Literal["min", "max"] = "min"


_COLLAPSED = "all features are equal (‖H̃‖ = 0)"
_ABSENT = "a class has no sample"
_BLIND = "the head maps all classes to one point (ỸBᵀ = 0)"

#: In the order in which tables and files show them.
METRICS: dict[str, Metric] = {
    "loss/train": Metric("L_n = ‖F − Y‖²/(2n) on the training set"),
    "loss/test": Metric("‖F − Y‖²/(2n) on the test set"),
    "loss/regularised": Metric("L_λ = L_n + λ_W‖W‖²/2 + λ_ρ mean_j(‖a_j‖² + ‖u_j‖²)/2 (4)"),
    "nc1/train": Metric("NC1 = ‖H_w‖²/‖H̃‖² on training features", _COLLAPSED),
    "nc1/test": Metric("NC1 = ‖H_w‖²/‖H̃‖² on test features", _COLLAPSED),
    "certificate/nc1_bound": Metric("upper bound of nc1/train from ℓ and ϱ, in [0, 1]"),
    "certificate/loss_term": Metric("ℓ = ‖r̃Bᵀ‖²/‖ỸBᵀ‖², B = W(WᵀW)⁻¹", _BLIND),
    "certificate/range_term": Metric("ϱ = ‖Q_w‖²γ²/‖ỸBᵀ‖², Q = H̃(I − P): what the head cannot see", _BLIND),
    "certificate/closed_form": Metric("the bound from loss, σ_min(W), σ_max(W) and gradient alone"),
    "certificate/angle": Metric(
        "1 − ⟨H̃, ỸBᵀ⟩²/(‖H̃‖²‖ỸBᵀ‖²), another upper bound of nc1/train", f"{_COLLAPSED} or {_BLIND}"
    ),
    "certificate/tightness": Metric("nc1/train divided by certificate/nc1_bound", _COLLAPSED, "max"),
    "balancedness": Metric("NB = ‖Ā − c*WWᵀ‖_op/‖Ā‖_op, Ā = AᵀA/N (25)–(26)", "A = 0 or W = 0"),
    "gradient_norm/a": Metric("(mean_j ‖∇_{a_j}‖²)^½, full batch, weight decay included"),
    "gradient_norm/u": Metric("(mean_j ‖∇_{u_j}‖²)^½, full batch, weight decay included"),
    "gradient_norm/w": Metric("‖∇_W‖_F, full batch, weight decay included, whether or not W is trained"),
    "error/train": Metric("class-balanced error on the training set", _ABSENT),
    "error/test": Metric("class-balanced error on the test set", _ABSENT),
}

#: What every row says of when it was measured.
CLOCKS: dict[str, str] = {
    "step": "steps taken",
    "time": "Σ step sizes",
    "epoch": "steps divided by steps per epoch",
    "seconds": "wall-clock seconds of training so far, measurements included",
}
