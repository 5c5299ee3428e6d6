"""The loss and the classification error of a predictor F."""

from jaxtyping import Float
from torch import Tensor


def mean_square_loss(F: Float[Tensor, "*run n q"], Y: Float[Tensor, "*run n q"]) -> Float[Tensor, "*run"]:
    r"""Return the loss :math:`L_n = \|F - Y\|_F^2 / (2n)` (4)."""
    return (F - Y).square().sum(dim=(-2, -1)) / (2 * F.shape[-2])


def balanced_error(F: Float[Tensor, "*run n q"], Y: Float[Tensor, "*run n q"]) -> Float[Tensor, "*run"]:
    r"""Return the class-balanced error :math:`\frac1q \sum_k \Pr[\arg\max f(x) \ne k \mid k]`.

    It is NaN when a class has no sample.
    """
    wrong = 1.0 - Y.take_along_dim(F.max(dim=-1, keepdim=True).indices, dim=-1)
    per_class = (wrong.mT @ Y).squeeze(-2) / Y.sum(dim=-2)
    return per_class.mean(dim=-1)
