r"""Activations :math:`\sigma` and the constants of them that the theory uses.

The derivative is a function of the *value* :math:`s = \sigma(z)`, so that a backward pass keeps one array and not two.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Activation:
    r"""An activation and its constants.

    Args:
        name: name in the configuration.
        value: :math:`z \mapsto \sigma(z)`; may overwrite its argument.
        slope: :math:`\sigma(z) \mapsto \sigma'(z)`; leaves its argument alone.
        bound: :math:`\sup|\sigma|`, infinite if there is none.
        c1: the paper's :math:`C_1` (Assumption 1), a bound on :math:`\sigma, \sigma', \sigma'', \sigma'''` and
            :math:`(z\sigma')'`; infinite if the assumption fails.
    """

    name: str
    value: Callable[[Float[Tensor, "..."]], Float[Tensor, "..."]]
    slope: Callable[[Float[Tensor, "..."]], Float[Tensor, "..."]]
    bound: float
    c1: float


def _tanh(z: Tensor) -> Tensor:
    # 2·sigmoid(2z) − 1 is tanh to (absolute) rounding and several times faster than torch.tanh on CPUs. Half precision
    # has no digits to lose in the subtraction.
    if z.dtype.itemsize < 4:
        return z.tanh_()
    return z.mul_(2.0).sigmoid_().mul_(2.0).sub_(1.0)


def _tanh_slope(s: Tensor) -> Tensor:
    return torch.addcmul(s.new_ones(()), s, s, value=-1.0)  # 1 − s² in one pass


# sup|erf'|. The largest of the derivatives, sup|erf'''|, is twice that.
_ERF_SLOPE = 2.0 / math.sqrt(math.pi)


def _erf_slope(s: Tensor) -> Tensor:
    # 2/√π exp(−z²). If erf(z) was rounded to ±1, z is infinite and the slope 0.
    return s.erfinv().square_().neg_().exp_().mul_(_ERF_SLOPE)


def _softplus(z: Tensor) -> Tensor:
    return torch.logaddexp(z, z.new_zeros(()))  # torch's own softplus is z itself from 20 on


#: Every activation by its name in the configuration.
ACTIVATIONS: dict[str, Activation] = {
    activation.name: activation
    for activation in (
        Activation("tanh", _tanh, _tanh_slope, bound=1.0, c1=2.0),
        Activation("erf", torch.erf_, _erf_slope, bound=1.0, c1=2.0 * _ERF_SLOPE),
        Activation("sigmoid", torch.sigmoid_, lambda s: s * (1.0 - s), bound=1.0, c1=1.0),
        Activation("relu", torch.relu_, lambda s: (s > 0).to(s.dtype), bound=math.inf, c1=math.inf),
        Activation("softplus", _softplus, lambda s: -torch.expm1(-s), bound=math.inf, c1=math.inf),
    )
}
