r"""What an integrator is: three coefficients.

With g the gradient without weight decay, one step of :math:`d\theta = -(g + \lambda\theta)\,dt + \sqrt{2/\beta}\,dB` is

.. math::
    \theta^+ = \theta + \delta\,\theta - c\,g + s\,\xi, \qquad \xi \sim \mathcal N(0, I).

The first coefficient is kept as the increment :math:`\delta`, not as :math:`1 + \delta`, which float32 would round
away for small :math:`\eta\lambda`.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Coefficients:
    r"""One number a run: growth :math:`\delta`, gradient :math:`c`, noise :math:`s`."""

    growth: Float[Tensor, "run"]
    gradient: Float[Tensor, "run"]
    noise: Float[Tensor, "run"]

    def like(self, parameter: Float[Tensor, "run rows columns"]) -> tuple[Tensor, Tensor, Tensor]:
        """The same numbers in the type and on the device of a parameter, shaped (run, 1, 1) to multiply it."""
        growth, gradient, noise = (z.to(parameter)[:, None, None] for z in (self.growth, self.gradient, self.noise))
        return growth, gradient, noise


@runtime_checkable
class Integrator(Protocol):
    """A one-step method for the flow (20)."""

    #: Strong order of convergence in the step size, with additive noise.
    strong_order: float

    def coefficients(
        self, step_size: Float[Tensor, "run"], decay: Float[Tensor, "run"], beta: Float[Tensor, "run"]
    ) -> Coefficients:
        r"""Coefficients of a step.

        Args:
            step_size: η.
            decay: λ ≥ 0.
            beta: β, infinite without noise.
        """
        ...
