"""What every metric of the catalogue is computed from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from nc_sweeps.dynamics.gradients import LossGradients, loss_gradients
from nc_sweeps.metrics.balancedness import balancedness
from nc_sweeps.metrics.centring import square_norm
from nc_sweeps.metrics.collapse import nc1
from nc_sweeps.metrics.errors import balanced_error, mean_square_loss
from nc_sweeps.models.mean_field import MeanFieldEnsemble
from nc_sweeps.theory.certificate import Certificate, certificate
from nc_sweeps.theory.objective import regularised_loss


@dataclass
class Snapshot:
    """An ensemble at one moment, and what the metrics share; each part is computed when a metric first asks for it.

    The network is evaluated in its own precision. Everything derived from its features is float64, because the
    metrics are ratios of small differences exactly when collapse happens.

    Args:
        ensemble: the networks.
        X, Y: training set, one-hot targets.
        X_test, Y_test: test set.
        lambda_rho, lambda_w: weight decays, float64.
    """

    ensemble: MeanFieldEnsemble
    X: Float[Tensor, "run n d"]
    Y: Float[Tensor, "run n q"]
    X_test: Float[Tensor, "run n_test d"]
    Y_test: Float[Tensor, "run n_test q"]
    lambda_rho: Float[Tensor, "run"]
    lambda_w: Float[Tensor, "run"]

    @cached_property
    def gradients(self) -> LossGradients:
        """Full-batch gradients of the loss, with the training features."""
        return loss_gradients(self.ensemble, self.X, self.Y)

    @cached_property
    def H(self) -> Float[Tensor, "run n p"]:
        """Training features."""
        known = self.__dict__.get("gradients")
        return (known.features if known is not None else self.ensemble.features(self.X)).double()

    @cached_property
    def H_test(self) -> Float[Tensor, "run n_test p"]:
        """Test features."""
        return self.ensemble.features(self.X_test).double()

    @cached_property
    def W(self) -> Float[Tensor, "run p q"]:
        """Head."""
        return self.ensemble.W.double()

    @cached_property
    def targets(self) -> tuple[Float[Tensor, "run n q"], Float[Tensor, "run n_test q"]]:
        """One-hot targets of the training and of the test set."""
        return self.Y.double(), self.Y_test.double()

    @cached_property
    def gamma(self) -> Float[Tensor, "run"]:
        """Output scale."""
        return self.ensemble.gamma.double()

    @cached_property
    def F(self) -> Float[Tensor, "run n q"]:
        """Predictions on the training set."""
        return self.gamma[:, None, None] * (self.H @ self.W)

    @cached_property
    def F_test(self) -> Float[Tensor, "run n_test q"]:
        """Predictions on the test set."""
        return self.gamma[:, None, None] * (self.H_test @ self.W)

    @cached_property
    def loss(self) -> Float[Tensor, "run"]:
        """L_n."""
        return mean_square_loss(self.F, self.targets[0])

    @cached_property
    def nc1(self) -> Float[Tensor, "run"]:
        """NC1 of the training features."""
        return nc1(self.H, self.targets[0])

    @cached_property
    def certificate(self) -> Certificate:
        """The certificate of the training features."""
        return certificate(self.H, self.W, self.targets[0], self.gamma)

    @cached_property
    def second_moment(self) -> Float[Tensor, "run p p"]:
        """Ā = AᵀA/N."""
        A = self.ensemble.A.double()
        return A.mT @ A / self.ensemble.particles

    def particle_gradient_norm(self, layer: str) -> Float[Tensor, "run"]:
        """Root mean square over particles of the gradient in one layer, weight decay included."""
        gradient, parameter = getattr(self.gradients, layer).double(), getattr(self.ensemble, layer).double()
        return (square_norm(gradient + self.lambda_rho[:, None, None] * parameter) / self.ensemble.particles).sqrt()

    def head_gradient_norm(self) -> Float[Tensor, "run"]:
        """Frobenius norm of the gradient in W, weight decay included."""
        return square_norm(self.gradients.W.double() + self.lambda_w[:, None, None] * self.W).sqrt()


#: One function a metric of the catalogue.
MEASUREMENTS: dict[str, Callable[[Snapshot], Float[Tensor, "run"]]] = {
    "loss/train": lambda s: s.loss,
    "loss/test": lambda s: mean_square_loss(s.F_test, s.targets[1]),
    "loss/regularised": lambda s: regularised_loss(
        s.loss, s.ensemble.U, s.ensemble.A, s.ensemble.W, s.lambda_rho, s.lambda_w
    ),
    "nc1/train": lambda s: s.nc1,
    "nc1/test": lambda s: nc1(s.H_test, s.targets[1]),
    "certificate/nc1_bound": lambda s: s.certificate.nc1_bound,
    "certificate/loss_term": lambda s: s.certificate.loss_term,
    "certificate/range_term": lambda s: s.certificate.range_term,
    "certificate/closed_form": lambda s: s.certificate.closed_form,
    "certificate/angle": lambda s: s.certificate.angle,
    "certificate/tightness": lambda s: s.nc1 / s.certificate.nc1_bound,
    "balancedness": lambda s: balancedness(s.second_moment, s.W),
    "gradient_norm/a": lambda s: s.particle_gradient_norm("A"),
    "gradient_norm/u": lambda s: s.particle_gradient_norm("U"),
    "gradient_norm/w": lambda s: s.head_gradient_norm(),
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
    if any(name.startswith("gradient_norm/") for name in names):
        _ = snapshot.gradients  # first, because the training features come with them
    return {name: MEASUREMENTS[name](snapshot).tolist() for name in names}
