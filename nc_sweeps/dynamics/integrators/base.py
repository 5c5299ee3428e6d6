r"""Integrators: one-step methods that are given by three coefficients.

With g the gradient without weight decay, one step of :math:`d\theta = -(g + \lambda\theta)\,dt + \sqrt{2/\beta}\,dB` is

.. math::
    \theta^+ = \theta + \delta\,\theta - c\,g + s\,\xi, \qquad \xi \sim \mathcal N(0, I).

The first coefficient is the increment :math:`\delta` and not :math:`1 + \delta`, from which float32 would round a small
:math:`\eta\lambda` away.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Coefficients:
    r"""Coefficients of a step, one number for each run: growth :math:`\delta`, gradient :math:`c`, noise :math:`s`."""

    growth: Float[Tensor, "run"]
    gradient: Float[Tensor, "run"]
    noise: Float[Tensor, "run"]

    def like(self, parameter: Float[Tensor, "run rows columns"]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the coefficients in the type and on the device of a parameter, shaped (run, 1, 1) to multiply it."""
        growth, gradient, noise = (z.to(parameter)[:, None, None] for z in (self.growth, self.gradient, self.noise))
        return growth, gradient, noise


@runtime_checkable
class Integrator(Protocol):
    """A one-step method for the flow (20)."""

    #: Strong order of convergence in the step size, with additive noise.
    strong_order: float

    def compute_coefficients(
        self, step_size: Float[Tensor, "run"], decay: Float[Tensor, "run"], beta: Float[Tensor, "run"]
    ) -> Coefficients:
        r"""Return the coefficients of a step.

        Args:
            step_size: η.
            decay: λ ≥ 0.
            beta: β, infinite without noise.
        """
        ...
