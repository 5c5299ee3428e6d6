"""Every metric of the catalogue as a function of a snapshot."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nc_sweeps.metrics import collapse
from nc_sweeps.metrics.balancedness import balancedness
from nc_sweeps.metrics.prediction import balanced_error, mean_square_loss
from nc_sweeps.theory import paper_bounds
from nc_sweeps.theory.imbalance import stationary_residual
from nc_sweeps.training.snapshot import Snapshot

Measurement = Callable[[Snapshot], Float[Tensor, "run"]]


def _both(name: str) -> dict[str, Measurement]:
    """The same measure of collapse of training and of test features."""
    return {f"{name}/train": lambda s: s.collapse[name], f"{name}/test": lambda s: s.collapse_of_both[name][1]}


#: One function a metric of the catalogue.
MEASUREMENTS: dict[str, Measurement] = {
    "loss/train": lambda s: s.loss,
    "loss/test": lambda s: mean_square_loss(s.F_test, s.targets[1]),
    "loss/regularised": lambda s: s.regularised,
    **_both("nc1"),
    **_both("nc1/trace_ratio"),
    **_both("nc1/pseudo_inverse"),
    **_both("nc1/cdnv"),
    **_both("nc1/cdnv_worst"),
    **_both("nc2/norm_variation"),
    **_both("nc2/simplex_angle"),
    **_both("nc2/simplex_distance"),
    **_both("nc2/frame_norm_variation"),
    **_both("nc2/frame_angle"),
    **_both("nc2/frame_distance"),
    **_both("nc3/duality"),
    **_both("nc3/frame_duality"),
    **_both("nc3/misalignment"),
    **_both("nc3/product_distance"),
    "nc4/train": lambda s: collapse.nc4(s.H, s.F, s.statistics),
    "nc4/test": lambda s: collapse.nc4(s.H_test, s.F_test, s.statistics),
    "certificate/nc1_bound": lambda s: s.certificate.nc1_bound,
    "certificate/loss_term": lambda s: s.certificate.loss_term,
    "certificate/range_term": lambda s: s.certificate.range_term,
    "certificate/closed_form": lambda s: s.certificate.closed_form,
    "certificate/angle": lambda s: s.certificate.angle,
    "certificate/tightness": lambda s: s.collapse["nc1"] / s.certificate.nc1_bound,
    "certificate/sigma_min_bound": lambda s: s.sigma_min_bound(),
    "certificate/deviation_bound": lambda s: s.deviation_bound(),
    "paper/deviation": lambda s: s.deviation,
    "paper/theorem_4_2": lambda s: s.theorem_4_2,
    "paper/corollary_4_4": lambda s: s.corollary_4_4(s.theorem_4_2),
    "paper/corollary_4_4_measured": lambda s: s.corollary_4_4(s.deviation),
    "paper/lemma_4_3_exponent": lambda s: paper_bounds.lemma_4_3_exponent(s.singular, s.beta),
    "paper/beta_loss": lambda s: torch.where(s.beta.isinf(), torch.nan, s.beta * s.regularised),
    "head/sigma_min": lambda s: s.singular[:, -1],
    "head/sigma_max": lambda s: s.singular[:, 0],
    "balancedness": lambda s: balancedness(s.second_moment, s.W),
    "imbalance/law_deviation": lambda s: s.law_deviation(),
    "imbalance/expected_deviation": lambda s: s.of_law(s.flow.law.expected_deviation(s.ensemble.particles)),
    "imbalance/stationary_residual": lambda s: stationary_residual(
        s.second_moment, s.W, s.lambda_rho, s.lambda_w, s.beta
    ),
    "gradient_norm/a": lambda s: s.particle_gradient_norm("A"),
    "gradient_norm/u": lambda s: s.particle_gradient_norm("U"),
    "gradient_norm/w": lambda s: s.head_gradient_norm(),
    "stationarity/score_free": lambda s: s.score_free_residual(),
    "stationarity/kgd_squared": lambda s: s.kgd_squared(),
    "free_energy/gaussian_bound": lambda s: s.free_energy(lambda: s.entropy_bounds[:, 0]),
    "free_energy/isotropic_bound": lambda s: s.free_energy(lambda: s.entropy_bounds[:, 1]),
    "free_energy/estimate": lambda s: s.free_energy(s.estimated_entropy),
    "free_energy/divergence_bound": lambda s: s.divergence_bound(),
    "oracle/distance": lambda s: s.of_oracle(
        lambda run, o: (s.F[run].cpu() - o.optimal_predictions).norm() / math.sqrt(s.X.shape[1])
    ),
    "oracle/certified_distance": lambda s: s.certified_distances,
    "oracle/feature_distance": lambda s: s.of_oracle(
        lambda run, o: (s.H[run].cpu() - o.features).norm() / o.features.norm()
    ),
    "oracle/nc1": lambda s: s.of_oracle(lambda _, o: o.nc1),
    "oracle/free_energy": lambda s: s.of_oracle(
        lambda run, o: o.free_energy + float(s.lambda_w[run] / 2 * s.W[run].square().sum())
    ),
    "data/margin": lambda s: s.references.margins,
    "error/train": lambda s: balanced_error(s.F, s.targets[0]),
    "error/test": lambda s: balanced_error(s.F_test, s.targets[1]),
}


@torch.no_grad()
def measure(snapshot: Snapshot, names: Sequence[str]) -> dict[str, list[float]]:
    """Evaluate metrics.

    Args:
        snapshot: the state.
        names: which metrics of the catalogue.

    Returns:
        Metric name → one number a run.
    """
    # Gradients first: their passes through the training set give the features too. Then what is of the test set: its
    # measures of collapse come with those of the training set.
    gradients = ("gradient_norm/", "stationarity/")
    order = sorted(names, key=lambda name: (not name.startswith(gradients), not name.endswith("/test")))
    values = {name: MEASUREMENTS[name](snapshot).tolist() for name in order}
    return {name: values[name] for name in names}
