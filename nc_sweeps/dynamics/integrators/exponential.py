"""The exponential integrator: weight decay and noise are solved exactly."""

import torch
from jaxtyping import Float
from torch import Tensor

from nc_sweeps.dynamics.integrators.base import Coefficients


class Exponential:
    r""":math:`\theta^+ = e^{-\lambda\eta}\theta - \frac{1 - e^{-\lambda\eta}}{\lambda} g
    + \sqrt{\frac{1 - e^{-2\lambda\eta}}{\lambda\beta}}\,\xi`, with the limits η and √(2η/β) at λ = 0.

    Exact in law for the Ornstein–Uhlenbeck process g = 0 at any step size; strong order 1 otherwise. It does not lift
    the stiffness of the loss: keep :math:`\eta\gamma^2\sigma_{max}(W)^2\lambda_{max}(K)/n` well below 2.

    Reference: Hochbruck, Ostermann, *Exponential integrators*, Acta Numerica 19 (2010), §2.1.
    """

    strong_order = 1.0

    def coefficients(
        self, step_size: Float[Tensor, "run"], decay: Float[Tensor, "run"], beta: Float[Tensor, "run"]
    ) -> Coefficients:
        """See :class:`~nc_sweeps.dynamics.integrators.base.Integrator`."""
        growth = torch.expm1(-decay * step_size)
        free = decay == 0.0
        divisor = torch.where(free, 1.0, decay)
        gradient = torch.where(free, step_size, -growth / divisor)
        variance = torch.where(free, 2.0 * step_size, -torch.expm1(-2.0 * decay * step_size) / divisor)
        return Coefficients(growth=growth, gradient=gradient, noise=(variance / beta).sqrt())
