r"""The truncation :math:`\tau_R` of the second layer (Algorithm 1)."""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Truncation:
    r"""The function :math:`\tau_R(z)`: z up to :math:`|z| = R`, and :math:`\mathrm{sign}(z)(R + C_0)` from
    :math:`|z| = R + 2C_0` on. In between its slope falls smoothly from 1 to 0,

    .. math::
        \tau_R'(z) = 1 - 3t^2 + 2t^3, \qquad t = \mathrm{clip}\Big(\frac{|z| - R}{2 C_0}, 0, 1\Big).

    Args:
        radius: R.
        c0: :math:`1 \le C_0 \le R/2`.
    """

    radius: float
    c0: float

    def value(self, A: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        r"""Return :math:`\tau_R(A)`, entry by entry."""
        t = self._progress(A)
        return A.sign() * (A.abs().clamp(max=self.radius) + 2.0 * self.c0 * (t - t**3 + t**4 / 2.0))

    def slope(self, A: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        r"""Return :math:`\tau_R'(A)`, entry by entry."""
        t = self._progress(A)
        return 1.0 - t.square() * (3.0 - 2.0 * t)

    def _progress(self, A: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return ((A.abs() - self.radius) / (2.0 * self.c0)).clamp(0.0, 1.0)


def limits(truncation: Truncation | None) -> tuple[float, float]:
    """Return R and C₀, with R = ∞ if there is no truncation."""
    return (math.inf, 1.0) if truncation is None else (truncation.radius, truncation.c0)
