"""The function that computes each metric of the catalogue for networks of particles.

The order is that of the catalogue. How to add a metric, for deep networks too, is in docs/architecture.md.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from operator import attrgetter

import torch
from jaxtyping import Float
from torch import Tensor

from nc_sweeps.metrics import collapse
from nc_sweeps.metrics.balancedness import balancedness
from nc_sweeps.metrics.centring import square_norm
from nc_sweeps.metrics.collapse_measures import COLLAPSE_MEASURES
from nc_sweeps.metrics.prediction import balanced_error, mean_square_loss
from nc_sweeps.theory import free_energy, imbalance, paper_bounds
from nc_sweeps.theory.certificate import Certificate
from nc_sweeps.training.registry import MEASUREMENTS, computes
from nc_sweeps.training.snapshot import Need, Snapshot

__all__ = ["MEASUREMENTS", "measure"]


@torch.no_grad()
def measure(snapshot: Snapshot, names: Sequence[str]) -> dict[str, list[float]]:
    """Compute metrics of all runs of a snapshot.

    Args:
        snapshot: the state.
        names: which metrics of the catalogue.

    Returns:
        By name of the metric: one number a run.
    """
    chosen = {name: MEASUREMENTS[name] for name in names}
    needs = frozenset[Need]().union(*(measurement.needs for measurement in chosen.values()))
    snapshot = replace(snapshot, needs=needs)
    return {name: measurement.function(snapshot).tolist() for name, measurement in chosen.items()}


@computes("loss/train")
def measure_training_loss(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return L_n on the training set."""
    return snapshot.features.loss


@computes("loss/test")
def measure_test_loss(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return L_n on the test set."""
    return mean_square_loss(snapshot.features.F_test, snapshot.features.Y_test)


@computes("loss/regularised")
def measure_regularised_loss(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return L_λ."""
    return snapshot.regularised_loss


def _register_collapse(name: str) -> None:
    """Register a measure of collapse of the training and of the test features."""
    computes(f"{name}/train")(lambda snapshot: snapshot.features.collapse[name])
    computes(f"{name}/test", "test collapse")(lambda snapshot: snapshot.features.test_collapse[name])


for _name in COLLAPSE_MEASURES:
    _register_collapse(_name)


@computes("nc4/train")
def measure_training_nc4(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return NC4 of the training features."""
    features = snapshot.features
    return collapse.nc4(features.H, features.F, features.statistics)


@computes("nc4/test")
def measure_test_nc4(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return NC4 of the test features, with the class centres of the training features."""
    features = snapshot.features
    return collapse.nc4(features.H_test, features.F_test, features.statistics)


for _field in fields(Certificate):  # each is a metric of the same name
    computes(f"certificate/{_field.name}")(attrgetter(f"features.certificate.{_field.name}"))


@computes("certificate/tightness")
def measure_tightness(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return NC1 of the training features divided by its bound."""
    return snapshot.features.collapse["nc1"] / snapshot.features.certificate.nc1_bound


@computes("certificate/sigma_min_bound")
def bound_sigma_min(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return the lower bound of σ_min(W) that residual and features give."""
    features = snapshot.features
    return paper_bounds.smallest_singular_value_bound(features.H, features.r, features.Y, features.gamma)


@computes("certificate/deviation_bound", "gradients")
def bound_deviation(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return the bound of ‖E₂‖² that the certificate's decomposition gives, NaN where it gives none."""
    return _bound_deviation(snapshot, paper_bounds.sharp_deviation_bound, snapshot.networks.activation.bound)


@computes("paper/deviation")
def measure_deviation(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return ‖E₂‖²."""
    return snapshot.features.deviation


@computes("paper/theorem_4_2", "gradients")
def bound_deviation_by_theorem_4_2(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return the right-hand side of Theorem 4.2, NaN where it has none."""
    return _bound_deviation(snapshot, paper_bounds.theorem_4_2, snapshot.networks.activation.c1)


def _bound_deviation(snapshot: Snapshot, bound: Callable[..., Tensor], constant: float) -> Float[Tensor, "run"]:
    """Return a bound of ‖E₂‖² that depends on a constant of the activation, NaN where it is infinite."""
    known, epsilon_squared, lambda_rho = snapshot.features, snapshot.epsilon_squared, snapshot.lambda_rho
    values = bound(known.loss, epsilon_squared, known.singular_values, known.samples, known.gamma, lambda_rho, constant)
    return torch.where(values.isinf(), torch.nan, values)


@computes("paper/corollary_4_4", "gradients")
def bound_nc1_by_corollary_4_4(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return the bound of NC1 in Corollary 4.4 from that of Theorem 4.2."""
    return snapshot.features.bound_nc1(bound_deviation_by_theorem_4_2(snapshot))


@computes("paper/corollary_4_4_measured")
def bound_nc1_by_measured_deviation(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return the bound of NC1 in Corollary 4.4 from the measured ‖E₂‖²."""
    return snapshot.features.bound_nc1(snapshot.features.deviation)


@computes("paper/lemma_4_3_exponent")
def measure_lemma_4_3_exponent(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return the exponent ε₀ of Lemma 4.3."""
    return paper_bounds.lemma_4_3_exponent(snapshot.features.singular_values, snapshot.beta)


@computes("paper/beta_loss")
def measure_beta_loss(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return β L_λ, NaN without noise."""
    return torch.where(snapshot.beta.isinf(), torch.nan, snapshot.beta * snapshot.regularised_loss)


@computes("head/sigma_min")
def measure_sigma_min(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return the smallest singular value of W."""
    return snapshot.features.singular_values[:, -1]


@computes("head/sigma_max")
def measure_sigma_max(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return the largest singular value of W."""
    return snapshot.features.singular_values[:, 0]


@computes("balancedness")
def measure_balancedness(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return the balancedness NB of the last two layers."""
    return balancedness(snapshot.particles.second_moment, snapshot.features.W)


@computes("imbalance/law_deviation")
def measure_law_deviation(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return ‖D_t − law‖_F."""
    D = imbalance.imbalance(snapshot.particles.second_moment, snapshot.features.W)
    return _where_law_holds(snapshot, square_norm(D - snapshot.flow.law.D).sqrt())


@computes("imbalance/expected_deviation")
def expect_law_deviation(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return the deviation from the imbalance law that N particles are expected to have."""
    return _where_law_holds(snapshot, snapshot.flow.law.expected_deviation(snapshot.networks.particles))


def _where_law_holds(snapshot: Snapshot, values: Float[Tensor, "run"]) -> Float[Tensor, "run"]:
    """Return numbers, NaN for runs to which the imbalance law does not apply."""
    if snapshot.networks.truncation is not None:
        return torch.full_like(values, torch.nan)
    return torch.where(snapshot.flow.head_is_held(snapshot.step), torch.nan, values)


@computes("imbalance/stationary_residual")
def measure_stationary_residual(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return the residual of Lemma 4.5."""
    second_moment, W = snapshot.particles.second_moment, snapshot.features.W
    return imbalance.stationary_residual(second_moment, W, snapshot.lambda_rho, snapshot.lambda_w, snapshot.beta)


@computes("gradient_norm/a", "gradients")
def measure_second_layer_gradient(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return the root mean square over particles of the gradient in a_j."""
    return snapshot.particles.measure_gradient("A")


@computes("gradient_norm/u", "gradients")
def measure_first_layer_gradient(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return the root mean square over particles of the gradient in u_j."""
    return snapshot.particles.measure_gradient("U")


@computes("gradient_norm/w")
def measure_head_gradient(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return the Frobenius norm of the gradient in W, weight decay included."""
    features = snapshot.features
    scale = features.gamma[:, None, None] / features.samples
    gradient = scale * (features.H.mT @ features.r)
    return square_norm(gradient + snapshot.lambda_w[:, None, None] * features.W).sqrt()


@computes("step/stability")
def measure_stability(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return ηλ_max(Θ)/n of the next step."""
    return snapshot.stability.measure(snapshot.X, snapshot.step)


@computes("stationarity/score_free", "gradients")
def measure_score_free_residual(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return the residual of stationarity that is free of the unknown score."""
    return snapshot.particles.score_free_residual


@computes("stationarity/kgd_squared", "gradients")
def estimate_kgd_squared(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return the squared kernel gradient discrepancy of a sub-sample."""
    return snapshot.particles.kgd_squared


@computes("free_energy/gaussian_bound")
def bound_free_energy_by_gaussian(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return the lower bound of E_n by the Gaussian of equal covariance."""
    return snapshot.compute_free_energy(lambda: snapshot.particles.entropy_bounds[:, 0])


@computes("free_energy/isotropic_bound")
def bound_free_energy_by_isotropic_gaussian(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return the lower bound of E_n by the Gaussian of equal total variance."""
    return snapshot.compute_free_energy(lambda: snapshot.particles.entropy_bounds[:, 1])


@computes("free_energy/estimate")
def estimate_free_energy(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return the estimate of E_n by nearest neighbours."""
    return snapshot.compute_free_energy(snapshot.particles.estimate_entropy)


@computes("free_energy/divergence_bound")
def bound_divergence(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return the lower bound of D_KL(ρ‖ρ_∞)."""
    square_mean, D = snapshot.particles.square_mean, snapshot.particles.dimension
    entropy = free_energy.moment_entropy_bound(square_mean, D)
    return free_energy.divergence_from_prior(square_mean, D, snapshot.beta, snapshot.lambda_rho, entropy)


@computes("oracle/distance")
def measure_distance(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return ‖F − F*‖_F/√n."""
    F, n = snapshot.features.F, snapshot.features.samples
    return snapshot.oracle.evaluate(
        lambda run, oracle: (F[run].cpu() - oracle.optimal_predictions).norm() / math.sqrt(n)
    )


@computes("oracle/certified_distance")
def certify_distance(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return the certified bound of ‖F − F*‖_F/√n."""
    return snapshot.oracle.certified_distances


@computes("oracle/feature_distance")
def measure_feature_distance(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return ‖H − H*‖_F/‖H*‖_F."""
    H = snapshot.features.H
    return snapshot.oracle.evaluate(
        lambda run, oracle: (H[run].cpu() - oracle.features).norm() / oracle.features.norm()
    )


@computes("oracle/nc1")
def compute_optimal_nc1(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return NC1 of H*."""
    return snapshot.oracle.evaluate(lambda _, oracle: oracle.nc1)


@computes("oracle/free_energy")
def compute_optimal_free_energy(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return the least E_n with the head as it is."""
    W, lambda_w = snapshot.features.W, snapshot.lambda_w
    return snapshot.oracle.evaluate(
        lambda run, oracle: oracle.free_energy + float(lambda_w[run] / 2 * W[run].square().sum())
    )


@computes("data/margin")
def measure_margin(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return the margin of every run's training set."""
    return snapshot.references.margins


@computes("error/train")
def measure_training_error(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return the class-balanced error on the training set."""
    return balanced_error(snapshot.features.F, snapshot.features.Y)


@computes("error/test")
def measure_test_error(snapshot: Snapshot) -> Float[Tensor, "run"]:
    """Return the class-balanced error on the test set."""
    return balanced_error(snapshot.features.F_test, snapshot.features.Y_test)
