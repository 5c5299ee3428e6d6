"""Every metric by its stable name: its definition, when it is undefined (NaN), and how it is shown.

The module does not import torch, so that a configuration is checked, completed and explained at once.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from nc_sweeps.metrics.collapse_measures import COLLAPSE_MEASURES
from nc_sweeps.metrics.metric import Metric

_COLLAPSED = "all features are equal (‖H̃‖ = 0)"
_ABSENT = "a class has no sample"
_BLIND = "the head maps all classes to one point (ỸBᵀ = 0)"
_NOISY = "with noise, when ε_S holds the unknown score, or with a truncation"
_NOISELESS = "without noise"
_UNBALANCED = "stated for balanced classes"
_HELD = "while the head is held, or with a truncation"
_NO_PRIOR = "without noise or weight decay there is no ρ_∞"
_NO_ORACLE = "W moves, no noise or weight decay, a truncation, or too large a problem: see docs/theory.md"


def _of_both_sets(metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """Return metrics of features twice: once of the training features, once of the test features."""
    return {
        f"{name}/{suffix}": replace(
            metric,
            title=f"{metric.title}, {word}",
            heading=f"{metric.heading} {suffix}",
            definition=f"{metric.definition}, {word} features",
        )
        for name, metric in metrics.items()
        for suffix, word in (("train", "training"), ("test", "test"))
    }


#: Metrics of networks of particles, and of those whose loss holds scores against targets.
_of_particles, _of_targets = partial(Metric, networks="particles"), partial(Metric, networks="targets")

#: Every metric by its name, in the order in which tables and files show them.
METRICS: dict[str, Metric] = {
    "loss/train": Metric(
        "loss",
        "loss",
        "L_n = ‖F − Y‖²/(2n) on the training set, or of a deep network the cross-entropy that it is trained on",
    ),
    "loss/test": Metric("loss, test", "test loss", "the same on the test set"),
    "loss/regularised": Metric(
        "regularised loss",
        "reg. loss",
        "L_λ = L_n + λ_W‖W‖²/2 + λ_ρ mean_j(‖a_j‖² + ‖u_j‖²)/2 (4); of a deep network L_n + λ‖θ‖²/2",
    ),
    **_of_both_sets(COLLAPSE_MEASURES),
    **_of_both_sets(
        {
            "nc4": Metric(
                "NC4",
                "NC4",
                "share of samples that the predictor and the nearest class mean of the training set call differently",
                scale="linear",
            )
        }
    ),
    "certificate/nc1_bound": _of_targets(
        "bound of NC1",
        "NC1 bound",
        "upper bound of nc1/train in [0, 1], rounding included: the least that ℓ and ϱ, or a centred head, give",
    ),
    "certificate/loss_term": _of_targets(
        "loss term of the bound",
        "loss term",
        "ℓ = ‖r̃Bᵀ‖²/‖ỸBᵀ‖², B = W(WᵀW)⁻¹, without singular values of W below 1e-6 of the largest",
        _BLIND,
    ),
    "certificate/range_term": _of_targets(
        "range term of the bound", "range term", "ϱ = ‖Q_w‖²γ²/‖ỸBᵀ‖², Q = H̃(I − P): what the head cannot see", _BLIND
    ),
    "certificate/closed_form": _of_targets(
        "bound of NC1 in closed form",
        "closed form",
        "the bound from loss, σ_min(W), σ_max(W) and gradient alone, with a truncation of A from ‖Q_w‖ instead",
    ),
    "certificate/angle": _of_targets(
        "bound of NC1 from the angle",
        "angle bound",
        "1 − ⟨H̃, ỸBᵀ⟩²/(‖H̃‖²‖ỸBᵀ‖²), another upper bound of nc1/train",
        f"{_COLLAPSED}, or {_BLIND}",
    ),
    "certificate/tightness": _of_targets(
        "NC1 / bound",
        "NC1 / bound",
        "nc1/train divided by certificate/nc1_bound",
        "as nc1/train",
        "max",
        scale="linear",
    ),
    "certificate/sigma_min_bound": _of_particles(
        "lower bound of σ_min(W)",
        "σ_min bound",
        "(√n_min − ‖r‖_op)₊/(γ‖H‖_op), a lower bound of head/sigma_min",
        "H = 0",
        "max",
        scale="linear",
    ),
    "certificate/deviation_bound": _of_particles(
        "bound of ‖E₂‖²",
        "E₂ bound",
        "2nL_n/(γσ_min)² + n sup|σ|²ε_S²/λ_ρ², an upper bound of paper/deviation",
        f"{_NOISY}; λ_ρ = 0; unbounded σ",
    ),
    "paper/deviation": _of_particles(
        "deviation ‖E₂‖²", "‖E₂‖²", "‖E₂‖² = ‖H − YBᵀ/γ‖², the left-hand side of Theorem 4.2 (10)"
    ),
    "paper/theorem_4_2": _of_particles(
        "bound of ‖E₂‖², Theorem 4.2",
        "Thm 4.2",
        "the bound of ‖E₂‖² in Theorem 4.2",
        f"{_NOISY}; λ_ρ = 0; an activation outside Assumption 1",
    ),
    "paper/corollary_4_4": _of_particles(
        "bound of NC1, Corollary 4.4",
        "Cor. 4.4",
        "the bound of NC1 in Corollary 4.4 from that of Theorem 4.2, 1 when vacuous",
        f"{_NOISY}; {_UNBALANCED}; as paper/theorem_4_2",
    ),
    "paper/corollary_4_4_measured": _of_particles(
        "bound of NC1, Corollary 4.4 from the measured ‖E₂‖²",
        "Cor. 4.4 measured",
        "the same from the measured ‖E₂‖²",
        _UNBALANCED,
    ),
    "paper/lemma_4_3_exponent": _of_particles(
        "exponent ε₀, Lemma 4.3",
        "ε₀",
        "ε₀ in σ_min(W) = β^(−ε₀) (Lemma 4.3)",
        "without noise, or β = 1",
        scale="linear",
    ),
    "paper/beta_loss": _of_particles("β L_λ", "β L_λ", "β L_λ, bounded by C₄ in Theorem 4.8", _NOISELESS),
    "head/sigma_min": Metric("smallest singular value of W", "σ_min", "smallest singular value of W", "", "max"),
    "head/sigma_max": Metric("largest singular value of W", "σ_max", "largest singular value of W"),
    "balancedness": Metric(
        "balancedness NB",
        "NB",
        "NB = ‖Ā − c*WWᵀ‖_op/‖Ā‖_op, Ā = AᵀA/N (25)–(26)",
        "A = 0 or W = 0",
        networks="two layers",
    ),
    "imbalance/law_deviation": _of_particles(
        "deviation from the imbalance law",
        "law deviation",
        "‖D_t − law‖_F, D = Ā − WWᵀ: distance to the continuous imbalance law",
        _HELD,
    ),
    "imbalance/expected_deviation": _of_particles(
        "deviation that N particles make",
        "expected deviation",
        "what N particles make of it, in continuous time",
        _HELD,
    ),
    "imbalance/stationary_residual": _of_particles(
        "residual of stationary imbalance",
        "stationary residual",
        "‖λ_ρĀ − λ_W WWᵀ − β⁻¹I‖_F, 0 at stationary points (Lemma 4.5)",
    ),
    "gradient_norm/a": _of_particles(
        "gradient norm, second layer", "grad. a", "(mean_j ‖∇_{a_j}‖²)^½, full batch, weight decay included"
    ),
    "gradient_norm/u": _of_particles(
        "gradient norm, first layer", "grad. u", "(mean_j ‖∇_{u_j}‖²)^½, full batch, weight decay included"
    ),
    "gradient_norm/w": Metric(
        "gradient norm, head", "grad. W", "‖∇_W‖_F, full batch, weight decay included, whether or not W is trained"
    ),
    "gradient_norm/parameters": Metric(
        "gradient norm",
        "grad.",
        "‖∇(L_n + λ‖θ‖²/2)‖ in all parameters of a deep network, full batch",
        networks="parameters",
    ),
    "step/stability": _of_particles(
        "stability of the step, limit 2",
        "stability",
        "η λ_max(Θ)/n of the next step, from below, Θ the Gauss–Newton operator of the training set: beyond 2 steps "
        "overshoot and do not follow the flow",
        scale="linear",
    ),
    "stationarity/score_free": _of_particles(
        "score-free residual", "score-free residual", "‖R‖_F/√n, R = mean_j σ(Xu_j)∇_{a_j}ᵀ, free of the unknown score"
    ),
    "stationarity/kgd_squared": _of_particles(
        "kernel gradient discrepancy, squared",
        "KGD²",
        "kernel gradient discrepancy squared of the first 256 particles, 0 on average when stationary",
        f"{_NOISELESS}, or one particle",
        scale="linear",
    ),
    "free_energy/gaussian_bound": _of_particles(
        "free energy, Gaussian lower bound",
        "E_n Gaussian",
        "lower bound of E_n (5) by the Gaussian of equal covariance, its bias taken off",
        "noisy and N ≤ p + d",
        scale="linear",
    ),
    "free_energy/isotropic_bound": _of_particles(
        "free energy, isotropic lower bound",
        "E_n isotropic",
        "lower bound of E_n by the Gaussian of equal total variance",
        scale="linear",
    ),
    "free_energy/estimate": _of_particles(
        "free energy, estimate",
        "E_n estimate",
        "estimate of E_n by nearest neighbours (Kozachenko, Leonenko)",
        "noisy and p + d > 8, or N ≤ 3",
        scale="linear",
    ),
    "free_energy/divergence_bound": _of_particles(
        "lower bound of D_KL(ρ‖ρ_∞)", "D_KL bound", "lower bound of D_KL(ρ‖ρ_∞) (Lemma A.3) from E‖θ‖²", _NO_PRIOR
    ),
    "oracle/distance": _of_particles(
        "distance from the optimum F*",
        "F* distance",
        "‖F − F*‖_F/√n, F* the infinite-width optimum of stage 1",
        _NO_ORACLE,
    ),
    "oracle/certified_distance": _of_particles(
        "certified distance from F*", "F* bound", "an upper bound of it that needs no F*", _NO_ORACLE
    ),
    "oracle/feature_distance": _of_particles(
        "relative distance from H*", "H* distance", "‖H − H*‖_F/‖H*‖_F", _NO_ORACLE
    ),
    "oracle/nc1": _of_particles("NC1 of the optimum H*", "H* NC1", "NC1 of H*", _NO_ORACLE),
    "oracle/free_energy": _of_particles(
        "free energy of the optimum", "E_n optimum", "min_ρ E_n, W as it is", _NO_ORACLE, scale="linear"
    ),
    "data/margin": Metric(
        "margin of the training set",
        "margin",
        "largest τ at M = 1 with which the training set is (τ, M)-separable, 0 if it is not",
        "",
        "max",
        scale="linear",
    ),
    "error/train": Metric(
        "training error", "train error", "class-balanced error on the training set", _ABSENT, scale="linear"
    ),
    "error/test": Metric("test error", "test error", "class-balanced error on the test set", _ABSENT, scale="linear"),
}

#: The columns that say when a row was measured.
CLOCKS: dict[str, str] = {
    "step": "steps taken",
    "time": "Σ step sizes",
    "epoch": "steps divided by steps per epoch",
    "seconds": "wall-clock seconds of training so far, measurements included",
}
