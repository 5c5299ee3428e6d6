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
        of: which networks have it: any, those of particles, deep ones for their parameters, those with two linear
            layers at the end, or those whose loss holds scores against targets.
    """

    text: str
    undefined: str = ""
    best: Literal["min", "max"] = "min"
    of: Literal["any", "particles", "parameters", "two layers", "targets"] = "any"


_COLLAPSED = "all features are equal (‖H̃‖ = 0)"
_ABSENT = "a class has no sample"
_BLIND = "the head maps all classes to one point (ỸBᵀ = 0)"
_COINCIDE = "two class means coincide"
_FLAT = "class means lie in fewer than q − 1 dimensions"
_VANISHING = f"{_ABSENT}, or a class mean (the head) vanishes"
_NOISY = "with noise, when ε_S holds the unknown score, or with a truncation"
_NOISELESS = "without noise"
_UNBALANCED = "stated for balanced classes"
_HELD = "while the head is held, or with a truncation"
_NO_PRIOR = "without noise or weight decay there is no ρ_∞"
_NO_ORACLE = "W moves, no noise or weight decay, a truncation, or too large a problem: see docs/theory.md"


def _both(name: str, text: str, undefined: str = "") -> dict[str, Metric]:
    """The same metric on training and on test features."""
    return {
        f"{name}/train": Metric(f"{text}, training features", undefined),
        f"{name}/test": Metric(f"{text}, test features", undefined),
    }


#: In the order in which tables and files show them.
METRICS: dict[str, Metric] = {
    "loss/train": Metric(
        "L_n = ‖F − Y‖²/(2n) on the training set, or of a deep network the cross-entropy that it is trained on"
    ),
    "loss/test": Metric("the same on the test set"),
    "loss/regularised": Metric(
        "L_λ = L_n + λ_W‖W‖²/2 + λ_ρ mean_j(‖a_j‖² + ‖u_j‖²)/2 (4); of a deep network L_n + λ‖θ‖²/2"
    ),
    **_both("nc1", "NC1 = ‖H_w‖²/‖H̃‖²", _COLLAPSED),
    **_both("nc1/trace_ratio", "tr Σ_W/tr Σ_B = NC1/(1 − NC1)", _COINCIDE),
    **_both("nc1/pseudo_inverse", "tr(Σ_W Σ_B⁺)/q, Σ_B⁺ of rank q − 1 (Papyan, Han, Donoho)", f"{_ABSENT}, or {_FLAT}"),
    **_both("nc1/cdnv", "class-distance normalised variance, mean over pairs (Galanti et al.)", _COINCIDE),
    **_both("nc1/cdnv_worst", "class-distance normalised variance, largest over pairs", _COINCIDE),
    **_both("nc2/norm_variation", "std_k‖μ̃_k‖/mean_k‖μ̃_k‖: equal norms of a simplex", _VANISHING),
    **_both("nc2/simplex_angle", "mean_{k≠l}|cos(μ̃_k, μ̃_l) + 1/(q−1)|", _VANISHING),
    **_both("nc2/simplex_distance", "‖M̃M̃ᵀ/‖M̃M̃ᵀ‖ − (I − 11ᵀ/q)/√(q−1)‖", _VANISHING),
    **_both("nc2/frame_norm_variation", "std_k‖μ_k‖/mean_k‖μ_k‖: equal norms of an orthogonal frame", _VANISHING),
    **_both("nc2/frame_angle", "mean_{k≠l}|cos(μ_k, μ_l)|", _VANISHING),
    **_both("nc2/frame_distance", "‖MMᵀ/‖MMᵀ‖ − I/√q‖", _VANISHING),
    **_both("nc3/duality", "‖Wᵀ/‖W‖ − M̃/‖M̃‖‖ (Papyan, Han, Donoho)", _VANISHING),
    **_both("nc3/frame_duality", "‖Wᵀ/‖W‖ − M/‖M‖‖", _VANISHING),
    **_both("nc3/misalignment", "1 − mean_k cos(w_k, μ̃_k)", _VANISHING),
    **_both("nc3/product_distance", "‖M̃W/‖M̃W‖ − (I − 11ᵀ/q)/√(q−1)‖ (Zhu et al.)", _VANISHING),
    **_both(
        "nc4", "share of samples that the predictor and the nearest class mean of the training set call differently"
    ),
    "certificate/nc1_bound": Metric("upper bound of nc1/train from ℓ and ϱ, in [0, 1]", of="targets"),
    "certificate/loss_term": Metric("ℓ = ‖r̃Bᵀ‖²/‖ỸBᵀ‖², B = W(WᵀW)⁻¹", _BLIND, of="targets"),
    "certificate/range_term": Metric(
        "ϱ = ‖Q_w‖²γ²/‖ỸBᵀ‖², Q = H̃(I − P): what the head cannot see", _BLIND, of="targets"
    ),
    "certificate/closed_form": Metric("the bound from loss, σ_min(W), σ_max(W) and gradient alone", of="targets"),
    "certificate/angle": Metric(
        "1 − ⟨H̃, ỸBᵀ⟩²/(‖H̃‖²‖ỸBᵀ‖²), another upper bound of nc1/train", f"{_COLLAPSED} or {_BLIND}", of="targets"
    ),
    "certificate/tightness": Metric("nc1/train divided by certificate/nc1_bound", _COLLAPSED, "max", of="targets"),
    "certificate/sigma_min_bound": Metric(
        "(√n_min − ‖r‖_op)₊/(γ‖H‖_op), a lower bound of head/sigma_min", "H = 0", "max", of="particles"
    ),
    "certificate/deviation_bound": Metric(
        "2nL_n/(γσ_min)² + n sup|σ|²ε_S²/λ_ρ², an upper bound of paper/deviation",
        f"{_NOISY}; λ_ρ = 0; unbounded σ",
        of="particles",
    ),
    "paper/deviation": Metric("‖E₂‖² = ‖H − YBᵀ/γ‖², the left-hand side of Theorem 4.2 (10)", of="particles"),
    "paper/theorem_4_2": Metric(
        "the bound of ‖E₂‖² in Theorem 4.2", f"{_NOISY}; λ_ρ = 0; an activation outside Assumption 1", of="particles"
    ),
    "paper/corollary_4_4": Metric(
        "the bound of NC1 in Corollary 4.4 from that of Theorem 4.2, 1 when vacuous",
        f"{_NOISY}; {_UNBALANCED}; as paper/theorem_4_2",
        of="particles",
    ),
    "paper/corollary_4_4_measured": Metric("the same from the measured ‖E₂‖²", _UNBALANCED, of="particles"),
    "paper/lemma_4_3_exponent": Metric(
        "ε₀ in σ_min(W) = β^(−ε₀) (Lemma 4.3)", "without noise, or β = 1", of="particles"
    ),
    "paper/beta_loss": Metric("β L_λ, bounded by C₄ in Theorem 4.8", _NOISELESS, of="particles"),
    "head/sigma_min": Metric("smallest singular value of W", "", "max"),
    "head/sigma_max": Metric("largest singular value of W"),
    "balancedness": Metric("NB = ‖Ā − c*WWᵀ‖_op/‖Ā‖_op, Ā = AᵀA/N (25)–(26)", "A = 0 or W = 0", of="two layers"),
    "imbalance/law_deviation": Metric(
        "‖D_t − law‖_F, D = Ā − WWᵀ: distance to the continuous imbalance law", _HELD, of="particles"
    ),
    "imbalance/expected_deviation": Metric("what N particles make of it, in continuous time", _HELD, of="particles"),
    "imbalance/stationary_residual": Metric(
        "‖λ_ρĀ − λ_W WWᵀ − β⁻¹I‖_F, 0 at stationary points (Lemma 4.5)", of="particles"
    ),
    "gradient_norm/a": Metric("(mean_j ‖∇_{a_j}‖²)^½, full batch, weight decay included", of="particles"),
    "gradient_norm/u": Metric("(mean_j ‖∇_{u_j}‖²)^½, full batch, weight decay included", of="particles"),
    "gradient_norm/w": Metric("‖∇_W‖_F, full batch, weight decay included, whether or not W is trained"),
    "gradient_norm/parameters": Metric(
        "‖∇(L_n + λ‖θ‖²/2)‖ in all parameters of a deep network, full batch", of="parameters"
    ),
    "stationarity/score_free": Metric(
        "‖R‖_F/√n, R = mean_j σ(Xu_j)∇_{a_j}ᵀ, free of the unknown score", of="particles"
    ),
    "stationarity/kgd_squared": Metric(
        "kernel gradient discrepancy squared of the first 256 particles, 0 on average when stationary",
        f"{_NOISELESS}, or one particle",
        of="particles",
    ),
    "free_energy/gaussian_bound": Metric(
        "lower bound of E_n (5) by the Gaussian of equal covariance, its bias taken off",
        "noisy and N ≤ p + d",
        of="particles",
    ),
    "free_energy/isotropic_bound": Metric("lower bound of E_n by the Gaussian of equal total variance", of="particles"),
    "free_energy/estimate": Metric(
        "estimate of E_n by nearest neighbours (Kozachenko, Leonenko)", "noisy and p + d > 8, or N ≤ 3", of="particles"
    ),
    "free_energy/divergence_bound": Metric(
        "lower bound of D_KL(ρ‖ρ_∞) (Lemma A.3) from E‖θ‖²", _NO_PRIOR, of="particles"
    ),
    "oracle/distance": Metric("‖F − F*‖_F/√n, F* the infinite-width optimum of stage 1", _NO_ORACLE, of="particles"),
    "oracle/certified_distance": Metric("an upper bound of it that needs no F*", _NO_ORACLE, of="particles"),
    "oracle/feature_distance": Metric("‖H − H*‖_F/‖H*‖_F", _NO_ORACLE, of="particles"),
    "oracle/nc1": Metric("NC1 of H*", _NO_ORACLE, of="particles"),
    "oracle/free_energy": Metric("min_ρ E_n, W as it is", _NO_ORACLE, of="particles"),
    "data/margin": Metric(
        "largest τ at M = 1 with which the training set is (τ, M)-separable, 0 if it is not", "", "max"
    ),
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
