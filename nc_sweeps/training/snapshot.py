"""A mean-field ensemble at one moment: what the metrics of the catalogue are computed from."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nc_sweeps.dynamics.flow import Flow
from nc_sweeps.dynamics.gradients import Linearisation, linearise
from nc_sweeps.dynamics.stability import Stability
from nc_sweeps.models.mean_field import MeanFieldNetworks
from nc_sweeps.theory import free_energy
from nc_sweeps.training.feature_view import FeatureView
from nc_sweeps.training.oracle_view import OracleView
from nc_sweeps.training.particle_cloud import ParticleCloud
from nc_sweeps.training.references import References

#: What a metric may need besides the features. It has to be known before the first metric is computed: the pass through
#: the training set that gives gradients of the particles gives the features too, and measures of collapse of the
#: training and of the test features are computed at once.
Need = Literal["gradients", "test collapse"]


@dataclass(frozen=True)
class Snapshot:
    """A mean-field ensemble at one moment; what metrics share is computed when the first of them asks for it.

    Args:
        networks: the networks.
        X, Y: training set, one-hot targets.
        X_test, Y_test: test set.
        flow: the flow that moves the networks.
        step: number of steps taken.
        references: what does not change along a run.
        stability: measures the stability of steps; remembers where its last measurement ended.
        needs: what those metrics need that will be computed.
    """

    networks: MeanFieldNetworks
    X: Float[Tensor, "run n d"]
    Y: Float[Tensor, "run n q"]
    X_test: Float[Tensor, "run n_test d"]
    Y_test: Float[Tensor, "run n_test q"]
    flow: Flow
    step: int
    references: References
    stability: Stability
    needs: frozenset[Need] = frozenset()

    @cached_property
    def features(self) -> FeatureView:
        """The features, and what follows from them and the head."""
        return FeatureView(
            self.networks,
            self.X,
            self.Y,
            self.X_test,
            self.Y_test,
            linearisation=self._linearisation,
            with_test_collapse="test collapse" in self.needs,
        )

    @cached_property
    def particles(self) -> ParticleCloud:
        """The particles as a cloud, with their gradients."""
        return ParticleCloud(self.networks, self.lambda_rho, self.beta, self._linearisation)

    @cached_property
    def oracle(self) -> OracleView:
        """The features compared with the optima of stage 1."""
        # A head that is held up to this very step is still the W of stage 1.
        in_stage_one = self.flow.head_is_held(self.step - 1) & (self.flow.head_start > 0)
        return OracleView(self.features, self.references, in_stage_one)

    @property
    def beta(self) -> Float[Tensor, "run"]:
        """Inverse temperature β."""
        return self.flow.law.beta

    @property
    def lambda_rho(self) -> Float[Tensor, "run"]:
        """Weight decay of the particles."""
        return self.flow.law.lambda_rho

    @property
    def lambda_w(self) -> Float[Tensor, "run"]:
        """Weight decay of the head."""
        return self.flow.law.lambda_w

    @cached_property
    def regularised_loss(self) -> Float[Tensor, "run"]:
        """Regularised loss L_λ."""
        features = self.features
        return free_energy.regularised_loss(
            features.loss, self.particles.square_mean, features.W, self.lambda_rho, self.lambda_w
        )

    def compute_free_energy(self, entropy: Callable[[], Float[Tensor, "run"]]) -> Float[Tensor, "run"]:
        """Return the free energy E_n, or a lower bound of it.

        Args:
            entropy: computes the particles' entropy, or an upper bound of it; called only with noise.
        """
        if self.beta.isinf().all():
            return self.regularised_loss
        return free_energy.free_energy(self.regularised_loss, self.beta, entropy())

    @cached_property
    def epsilon_squared(self) -> Float[Tensor, "run"]:
        """The number ε_S² of Definition 4.1, NaN with noise, and with a truncation, which Theorem 4.2 excludes."""
        mean = self.particles.measure_gradient("A").square() + self.particles.measure_gradient("U").square()
        is_known = self.beta.isinf()
        if self.networks.truncation is not None:
            is_known = torch.zeros_like(is_known)
        return torch.where(is_known, mean, torch.nan)

    @cached_property
    def _linearisation(self) -> Linearisation | None:
        """Full-batch gradients of the loss with the features of the same pass; None if no metric needs gradients."""
        if "gradients" not in self.needs:
            return None
        return linearise(self.networks, self.X, self.Y, self.lambda_rho)
