"""The exponential integrator: it solves weight decay and noise exactly."""

import torch
from jaxtyping import Float
from torch import Tensor

from nc_sweeps.dynamics.integrators.base import Coefficients


class Exponential:
    r"""The step :math:`\theta^+ = e^{-\lambda\eta}\theta - \frac{1 - e^{-\lambda\eta}}{\lambda} g
    + \sqrt{\frac{1 - e^{-2\lambda\eta}}{\lambda\beta}}\,\xi`, with the limits η and √(2η/β) at λ = 0.

    It is exact in law for the Ornstein–Uhlenbeck process g = 0 at any step size, and has strong order 1 otherwise. The
    loss stays stiff: keep :math:`\eta\gamma^2\sigma_{max}(W)^2\lambda_{max}(K)/n` well below 2, where
    :math:`K = \mathrm{mean}_j \sigma(Xu_j)\sigma(Xu_j)^\top`.

    Reference: Hochbruck, Ostermann, *Exponential integrators*, Acta Numerica 19 (2010), §2.1.
    """

    strong_order = 1.0

    def compute_coefficients(
        self, step_size: Float[Tensor, "run"], decay: Float[Tensor, "run"], beta: Float[Tensor, "run"]
    ) -> Coefficients:
        """Return the coefficients of a step, as :class:`~nc_sweeps.dynamics.integrators.base.Integrator` says."""
        growth = torch.expm1(-decay * step_size)
        without_decay = decay == 0.0
        divisor = torch.where(without_decay, 1.0, decay)
        gradient = torch.where(without_decay, step_size, -growth / divisor)
        variance = torch.where(without_decay, 2.0 * step_size, -torch.expm1(-2.0 * decay * step_size) / divisor)
        return Coefficients(growth=growth, gradient=gradient, noise=(variance / beta).sqrt())
