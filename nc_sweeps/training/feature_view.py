"""The features of a mean-field ensemble, and what follows from them and its head."""

from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from nc_sweeps.dynamics.gradients import Linearisation
from nc_sweeps.metrics.prediction import mean_square_loss
from nc_sweeps.metrics.statistics import ClassStatistics, class_statistics, stack
from nc_sweeps.metrics.streaming import measure_collapse
from nc_sweeps.models.mean_field import MeanFieldNetworks
from nc_sweeps.theory import paper_bounds
from nc_sweeps.theory.certificate import Certificate, certificate_of_statistics


class FeatureView:
    """The features of an ensemble on the training and on the test set, and what follows from them and the head.

    The network is evaluated in its own precision. All that is derived from its features is float64, because metrics are
    ratios of small differences exactly when collapse happens.

    Args:
        networks: the networks.
        X, Y: training set, one-hot targets.
        X_test, Y_test: test set.
        linearisation: a pass through the training set for gradients, whose features are taken; None: there was none.
        with_test_collapse: whether measures of collapse are computed of the test features too.
    """

    def __init__(
        self,
        networks: MeanFieldNetworks,
        X: Float[Tensor, "run n d"],
        Y: Float[Tensor, "run n q"],
        X_test: Float[Tensor, "run n_test d"],
        Y_test: Float[Tensor, "run n_test q"],
        linearisation: Linearisation | None,
        with_test_collapse: bool,
    ) -> None:
        self._networks, self._X, self._X_test = networks, X, X_test
        self._linearisation, self._with_test_collapse = linearisation, with_test_collapse
        self.W = networks.W.double()
        self.gamma = networks.gamma.double()
        self.Y, self.Y_test = Y.double(), Y_test.double()

    @property
    def samples(self) -> int:
        """Number n of training samples."""
        return self.Y.shape[1]

    @cached_property
    def H(self) -> Float[Tensor, "run n p"]:
        """Features of the training set."""
        known = self._linearisation
        return (self._networks.features(self._X) if known is None else known.H).double()

    @cached_property
    def H_test(self) -> Float[Tensor, "run n_test p"]:
        """Features of the test set."""
        return self._networks.features(self._X_test).double()

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
        return self.F - self.Y

    @cached_property
    def loss(self) -> Float[Tensor, "run"]:
        """Loss L_n on the training set."""
        return mean_square_loss(self.F, self.Y)

    @cached_property
    def singular_values(self) -> Float[Tensor, "run q"]:
        """Singular values of the head, the largest first."""
        values: Tensor = torch.linalg.svdvals(self.W)
        return values

    @cached_property
    def statistics(self) -> ClassStatistics:
        """Class statistics of the training features."""
        return class_statistics(self.H, self.Y)

    @cached_property
    def collapse(self) -> dict[str, Float[Tensor, "run"]]:
        """Measures of collapse of the training features by their names in the catalogue."""
        return {name: values[0] for name, values in self._collapse.items()}

    @cached_property
    def test_collapse(self) -> dict[str, Float[Tensor, "run"]]:
        """Measures of collapse of the test features by their names in the catalogue.

        Raises:
            RuntimeError: no metric said that it needs them.
        """
        if not self._with_test_collapse:
            raise RuntimeError("a metric of the collapse of test features has to say so when it is registered")
        return {name: values[1] for name, values in self._collapse.items()}

    @cached_property
    def _collapse(self) -> dict[str, Float[Tensor, "set run"]]:
        """Measures of collapse of one or of both sets, which are computed at once because this takes less time."""
        statistics = [self.statistics]
        if self._with_test_collapse:
            statistics.append(class_statistics(self.H_test, self.Y_test))
        return measure_collapse(stack(statistics), self.W.expand(len(statistics), -1, -1, -1))

    @cached_property
    def certificate(self) -> Certificate:
        """The certificate of the training features."""
        residuals = class_statistics(self.r, self.Y)
        return certificate_of_statistics(self.statistics, residuals, self.W, self.gamma)

    @cached_property
    def deviation(self) -> Float[Tensor, "run"]:
        """Square deviation ‖E₂‖² of the features from YBᵀ/γ."""
        return paper_bounds.deviation_from_target(self.H, self.W, self.Y, self.gamma)

    def bound_nc1(self, deviation: Float[Tensor, "run"]) -> Float[Tensor, "run"]:
        """Return the bound of NC1 in Corollary 4.4, NaN for unbalanced classes.

        Args:
            deviation: ‖E₂‖², or a bound of it.
        """
        counts = self.statistics.counts
        bound = paper_bounds.corollary_4_4(deviation, self.singular_values, self.samples, self.gamma)
        is_balanced = (counts == counts[:, :1]).all(dim=-1)
        return torch.where(is_balanced & ~deviation.isnan(), bound, torch.nan)
