"""The Euler–Maruyama method."""

from jaxtyping import Float
from torch import Tensor

from nc_sweeps.dynamics.integrators.base import Coefficients


class EulerMaruyama:
    r"""The step :math:`\theta^+ = (1 - \eta\lambda)\theta - \eta g + \sqrt{2\eta/\beta}\,\xi`.

    Strong order 1, since the noise of the flow is additive.

    Reference: Kloeden, Platen, *Numerical Solution of Stochastic Differential Equations* (1992), §10.2.
    """

    strong_order = 1.0

    def compute_coefficients(
        self, step_size: Float[Tensor, "run"], decay: Float[Tensor, "run"], beta: Float[Tensor, "run"]
    ) -> Coefficients:
        """Return the coefficients of a step, as :class:`~nc_sweeps.dynamics.integrators.base.Integrator` says."""
        return Coefficients(growth=-step_size * decay, gradient=step_size, noise=(2.0 * step_size / beta).sqrt())
