"""An ensemble at one moment: what every metric of the catalogue is computed from."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from nc_sweeps.dynamics.flow import Flow
from nc_sweeps.dynamics.gradients import Linearisation, linearisation
from nc_sweeps.metrics.centring import square_norm
from nc_sweeps.metrics.prediction import mean_square_loss
from nc_sweeps.metrics.statistics import ClassStatistics, class_statistics, stack
from nc_sweeps.metrics.streaming import measure_collapse
from nc_sweeps.models.mean_field import MeanFieldEnsemble
from nc_sweeps.oracle.dual import OracleError
from nc_sweeps.oracle.gibbs import GibbsOracle
from nc_sweeps.theory import free_energy, paper_bounds
from nc_sweeps.theory.certificate import Certificate, certificate_of_statistics
from nc_sweeps.theory.imbalance import imbalance
from nc_sweeps.theory.stationarity import kernel_gradient_discrepancy
from nc_sweeps.training.references import References

#: Particles that the kernel gradient discrepancy looks at. They are exchangeable, so the first do.
KGD_PARTICLES = 256
#: Dimensions of a particle up to which the nearest-neighbour entropy means something.
_ESTIMATE_DIMENSIONS = 8
#: Float64 numbers of several runs that are made at once.
_ELEMENTS_AT_ONCE = 2**18


@dataclass
class Snapshot:
    """An ensemble at one moment, and what the metrics share; each part is computed when a metric first asks for it.

    The network is evaluated in its own precision. Everything derived from its features is float64, because the
    metrics are ratios of small differences exactly when collapse happens.

    Args:
        ensemble: the networks.
        X, Y: training set, one-hot targets.
        X_test, Y_test: test set.
        flow: what moves them.
        step: steps taken.
        references: what does not change along a run.
    """

    ensemble: MeanFieldEnsemble
    X: Float[Tensor, "run n d"]
    Y: Float[Tensor, "run n q"]
    X_test: Float[Tensor, "run n_test d"]
    Y_test: Float[Tensor, "run n_test q"]
    flow: Flow
    step: int
    references: References

    @cached_property
    def linearisation(self) -> Linearisation:
        """Full-batch gradients of the loss, and the features that come with them."""
        return linearisation(self.ensemble, self.X, self.Y, self.lambda_rho)

    @cached_property
    def H(self) -> Float[Tensor, "run n p"]:
        """Training features."""
        known = "linearisation" in vars(self)
        return (self.linearisation.H if known else self.ensemble.features(self.X)).double()

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
        return self.H @ (self.gamma[:, None, None] * self.W)

    @cached_property
    def F_test(self) -> Float[Tensor, "run n_test q"]:
        """Predictions on the test set."""
        return self.H_test @ (self.gamma[:, None, None] * self.W)

    @cached_property
    def r(self) -> Float[Tensor, "run n q"]:
        """Residual F − Y on the training set."""
        return self.F - self.targets[0]

    @cached_property
    def loss(self) -> Float[Tensor, "run"]:
        """L_n."""
        return mean_square_loss(self.F, self.targets[0])

    @cached_property
    def singular(self) -> Float[Tensor, "run q"]:
        """Singular values of the head."""
        singular: Tensor = torch.linalg.svdvals(self.W)
        return singular

    @cached_property
    def statistics(self) -> ClassStatistics:
        """Class statistics of the training features."""
        return class_statistics(self.H, self.targets[0])

    @cached_property
    def statistics_test(self) -> ClassStatistics:
        """Class statistics of the test features."""
        return class_statistics(self.H_test, self.targets[1])

    @cached_property
    def collapse_of_both(self) -> dict[str, Float[Tensor, "2 run"]]:
        """Measures of collapse of the training and of the test features: of both they cost no more than of one."""
        return measure_collapse(stack([self.statistics, self.statistics_test]), self.W.expand(2, -1, -1, -1))

    @cached_property
    def collapse(self) -> dict[str, Float[Tensor, "run"]]:
        """Measures of collapse of the training features."""
        if "collapse_of_both" in vars(self):
            return {name: values[0] for name, values in self.collapse_of_both.items()}
        return measure_collapse(self.statistics, self.W)

    @cached_property
    def certificate(self) -> Certificate:
        """The certificate of the training features."""
        residuals = class_statistics(self.r, self.targets[0])
        return certificate_of_statistics(self.statistics, residuals, self.W, self.gamma)

    @cached_property
    def second_moment(self) -> Float[Tensor, "run p p"]:
        """Ā = AᵀA/N."""
        return self.ensemble.second_moment

    @property
    def beta(self) -> Float[Tensor, "run"]:
        """Inverse temperature."""
        return self.flow.law.beta

    @property
    def lambda_rho(self) -> Float[Tensor, "run"]:
        """Weight decay of the particles."""
        return self.flow.law.lambda_rho

    @property
    def lambda_w(self) -> Float[Tensor, "run"]:
        """Weight decay of the head."""
        return self.flow.law.lambda_w

    def of_clouds(self, of: Callable[[Float[Tensor, "some own D"]], Float[Tensor, "..."]]) -> Float[Tensor, "..."]:
        """Numbers of every run's particles θ_j = (a_j, u_j), taken from their mean, of which one large run or some
        small ones at a time are held in float64.
        """
        A, U, shard = self.ensemble.A, self.ensemble.U, self.ensemble.shard
        # Of all particles, so that processes that hold one more or less take the same runs at a time.
        some = max(1, _ELEMENTS_AT_ONCE // (shard.particles * (A.shape[-1] + U.shape[-1])))
        numbers = []
        for layers in zip(torch.split(A, some), torch.split(U, some), strict=True):
            theta = torch.cat(layers, dim=-1).double()
            numbers.append(of(theta.sub_(shard.mean(theta.sum(dim=-2, keepdim=True)))))
        return torch.cat(numbers)

    @cached_property
    def square_mean(self) -> Float[Tensor, "run"]:
        """Mean of ‖θ_j‖² over particles."""
        return self._mean_square(self.ensemble.A, self.ensemble.U)

    @cached_property
    def entropy_bounds(self) -> Float[Tensor, "run 2"]:
        """Upper bounds of the particles' entropy by the Gaussians of equal covariance, NaN for N ≤ D, and of equal
        total variance.
        """
        shard, N = self.ensemble.shard, self.ensemble.particles

        def of(theta: Float[Tensor, "some own D"]) -> Float[Tensor, "some 2"]:
            D = theta.shape[-1]
            if D >= N:
                isotropic = free_energy.moment_entropy_bound(shard.mean(square_norm(theta)) * N / (N - 1), D)
                return torch.stack([torch.full_like(isotropic, torch.nan), isotropic], dim=-1)
            covariance = shard.mean(theta.mT @ theta) * N / (N - 1)
            isotropic = free_energy.moment_entropy_bound(covariance.diagonal(dim1=-2, dim2=-1).sum(dim=-1), D)
            return torch.stack([free_energy.gaussian_entropy_bound(covariance, N), isotropic], dim=-1)

        return self.of_clouds(of)

    @cached_property
    def particle_gradients(self) -> dict[str, Float[Tensor, "run own k"]]:
        """Gradients in a_j and in u_j, weight decay included, by layer, in the network's own precision."""
        decay = self.lambda_rho[:, None, None].to(self.X.dtype)
        network, gradients = self.ensemble, self.linearisation
        return {
            "A": torch.addcmul(gradients.A, decay, network.A),
            "U": torch.addcmul(gradients.U, decay, network.U),
        }

    def particle_gradient_norm(self, layer: str) -> Float[Tensor, "run"]:
        """Root mean square over particles of the gradient in one layer, weight decay included."""
        return self._mean_square(self.particle_gradients[layer]).sqrt()

    def _mean_square(self, *arrays: Float[Tensor, "run own _"]) -> Float[Tensor, "run"]:
        """Mean over particles of the squares of their rows, in float64: N float32 squares would lose digits."""
        lengths = [torch.linalg.vector_norm(Z, dim=-1).double() for Z in arrays]
        return self.ensemble.shard.mean(torch.stack(lengths).square().sum(dim=(0, -1)))

    def head_gradient_norm(self) -> Float[Tensor, "run"]:
        """Frobenius norm of the gradient in W, weight decay included."""
        scale = self.gamma[:, None, None] / self.X.shape[1]
        gradient = scale * (self.H.mT @ self.r)
        return square_norm(gradient + self.lambda_w[:, None, None] * self.W).sqrt()

    @cached_property
    def epsilon_squared(self) -> Float[Tensor, "run"]:
        """ε_S² (Definition 4.1), NaN with noise; and with a truncation, of which Theorem 4.2 does not speak."""
        mean = self.particle_gradient_norm("A").square() + self.particle_gradient_norm("U").square()
        known = self.beta.isinf() if self.ensemble.truncation is None else torch.zeros_like(self.beta, dtype=torch.bool)
        return torch.where(known, mean, torch.nan)

    def score_free_residual(self) -> Float[Tensor, "run"]:
        r""":math:`\|R\|_F/\sqrt n`, :math:`R = \mathrm{mean}_j \sigma(Xu_j)\nabla_{a_j}^\top`."""
        return (square_norm(self.linearisation.R.double()) / self.X.shape[1]).sqrt()

    def kgd_squared(self) -> Float[Tensor, "run"]:
        """Kernel gradient discrepancy of a sub-sample, NaN without noise.

        In the network's own precision: float32 takes a quarter of the time, and errs by a millionth of what the
        sub-sample does.
        """
        if self.beta.isinf().all():
            return torch.full_like(self.beta, torch.nan)
        network, gradients = self.ensemble, self.particle_gradients
        layers = (network.A, network.U, gradients["A"], gradients["U"])
        A, U, g_A, g_U = (network.shard.collect_leading(Z, KGD_PARTICLES) for Z in layers)
        theta = torch.cat([A, U], dim=-1)
        score = -self.beta[:, None, None].to(theta.dtype) * torch.cat([g_A, g_U], dim=-1)
        some = max(1, _ELEMENTS_AT_ONCE // theta.shape[1] ** 2)  # runs, whose kernel matrices fit into the cache
        parts = zip(torch.split(theta, some), torch.split(score, some), strict=True)
        discrepancy = torch.cat([kernel_gradient_discrepancy(*part) for part in parts])
        return torch.where(self.beta.isinf(), torch.nan, discrepancy)

    @cached_property
    def regularised(self) -> Float[Tensor, "run"]:
        """L_λ."""
        return free_energy.regularised_loss(self.loss, self.square_mean, self.W, self.lambda_rho, self.lambda_w)

    def free_energy(self, entropy: Callable[[], Float[Tensor, "run"]]) -> Float[Tensor, "run"]:
        """E_n, or a lower bound of it, from the entropy or an upper bound of it, which only noise asks for."""
        if self.beta.isinf().all():
            return self.regularised
        return free_energy.free_energy(self.regularised, self.beta, entropy())

    def estimated_entropy(self) -> Float[Tensor, "run"]:
        """Entropy of the particles by nearest neighbours, NaN in many dimensions."""
        if self.ensemble.A.shape[-1] + self.ensemble.U.shape[-1] > _ESTIMATE_DIMENSIONS:
            return torch.full_like(self.beta, torch.nan)
        shard = self.ensemble.shard

        def of(theta: Float[Tensor, "some own D"]) -> Float[Tensor, "some"]:
            clouds = shard.collect_leading(theta, shard.particles)
            return torch.stack([free_energy.nearest_neighbour_entropy(cloud) for cloud in clouds])

        return self.of_clouds(of)

    def divergence_bound(self) -> Float[Tensor, "run"]:
        """Lower bound of D_KL(ρ‖ρ_∞)."""
        D = self.ensemble.A.shape[-1] + self.ensemble.U.shape[-1]
        entropy = free_energy.moment_entropy_bound(self.square_mean, D)
        return free_energy.divergence_from_prior(self.square_mean, D, self.beta, self.lambda_rho, entropy)

    @cached_property
    def theorem_4_2(self) -> Float[Tensor, "run"]:
        """Right-hand side of Theorem 4.2, NaN where it has none."""
        c1 = self.ensemble.activation.c1
        n = self.X.shape[1]
        bound = paper_bounds.theorem_4_2(
            self.loss, self.epsilon_squared, self.singular, n, self.gamma, self.lambda_rho, c1
        )
        return torch.where(bound.isinf(), torch.nan, bound)

    def deviation_bound(self) -> Float[Tensor, "run"]:
        """What the certificate's decomposition makes of Theorem 4.2, NaN where it says nothing."""
        sup = self.ensemble.activation.bound
        n = self.X.shape[1]
        bound = paper_bounds.sharp_deviation_bound(
            self.loss, self.epsilon_squared, self.singular, n, self.gamma, self.lambda_rho, sup
        )
        return torch.where(bound.isinf(), torch.nan, bound)

    @cached_property
    def deviation(self) -> Float[Tensor, "run"]:
        """‖E₂‖²."""
        return paper_bounds.deviation_from_target(self.H, self.W, self.targets[0], self.gamma)

    def corollary_4_4(self, deviation: Float[Tensor, "run"]) -> Float[Tensor, "run"]:
        """The paper's bound of NC1, NaN for unbalanced classes."""
        counts = self.statistics.counts
        bound = paper_bounds.corollary_4_4(deviation, self.singular, self.X.shape[1], self.gamma)
        balanced = (counts == counts[:, :1]).all(dim=-1)
        return torch.where(balanced & ~deviation.isnan(), bound, torch.nan)

    def sigma_min_bound(self) -> Float[Tensor, "run"]:
        """Lower bound of σ_min(W)."""
        return paper_bounds.smallest_singular_value_bound(self.H, self.r, self.targets[0], self.gamma)

    def of_law(self, value: Float[Tensor, "run"]) -> Float[Tensor, "run"]:
        """A number that the imbalance law gives, NaN where the law does not hold."""
        if self.ensemble.truncation is not None:
            return torch.full_like(value, torch.nan)
        return torch.where(self.flow.head_is_held(self.step).to(value.device), torch.nan, value)

    def law_deviation(self) -> Float[Tensor, "run"]:
        """‖D_t − law‖_F."""
        return self.of_law(square_norm(imbalance(self.second_moment, self.W) - self.flow.law.D).sqrt())

    def of_oracle(self, value: Callable[[int, GibbsOracle], float | Tensor]) -> Float[Tensor, "run"]:
        """A number that the Gibbs oracle of a run gives, NaN where there is none."""
        numbers = torch.full((self.ensemble.runs,), torch.nan, dtype=torch.float64)
        # A head that is held up to this very step is still the W of stage 1.
        in_stage_one = self.flow.head_is_held(self.step - 1) & (self.flow.head_start > 0)
        for run in in_stage_one.nonzero().flatten().tolist():
            oracle = self.references.oracle(run, self.W[run])
            if oracle is not None:
                numbers[run] = value(run, oracle)
        return numbers

    @cached_property
    def certified_distances(self) -> Float[Tensor, "run"]:
        """Certified bound of ‖F − F*‖_F/√n."""
        return self.of_oracle(self._certified_distance)

    def _certified_distance(self, run: int, oracle: GibbsOracle) -> float:
        try:
            return oracle.certified_distance(self.F[run].cpu()) / math.sqrt(self.X.shape[1])
        except OracleError:  # the state is too far from the optimum for the oracle's nodes
            return math.nan
