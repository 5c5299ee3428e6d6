r"""Within-class variability of features: NC1."""

from jaxtyping import Float
from torch import Tensor

from nc_sweeps.metrics.centring import centred, square_norm, within_class


def nc1(H: Float[Tensor, "*run n p"], Y: Float[Tensor, "*run n q"]) -> Float[Tensor, "*run"]:
    r""":math:`\mathrm{NC1} = \|H_w\|_F^2 / \|\tilde H\|_F^2 \in [0, 1]`: the share of the variance of the features
    that lies within classes. NaN when all features are equal.

    Args:
        H: features; in float64, or the ratio loses its digits where it matters.
        Y: one-hot labels.
    """
    return square_norm(within_class(H, Y)) / square_norm(centred(H))
