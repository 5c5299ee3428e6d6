r"""The centred and the within-class part of a matrix with one row a sample, and norms of matrices.

Leading axes (runs) are batched. A tilde removes column means;
:math:`Z_w` is the within-class part of Z, :math:`Z_b = \tilde Z - Z_w` the between-class part.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def centre(Z: Float[Tensor, "*run n k"]) -> Float[Tensor, "*run n k"]:
    r"""Return :math:`\tilde Z`, that is Z without its column means.

    The first row is subtracted before the mean, so that a common offset costs no digits and equal rows give exactly
    zero.
    """
    Z = Z - Z[..., :1, :]
    return Z - Z.mean(dim=-2, keepdim=True)


def within_class(Z: Float[Tensor, "*run n k"], Y: Float[Tensor, "*run n q"]) -> Float[Tensor, "*run n k"]:
    r"""Return :math:`Z_w`, that is Z without its class means.

    Args:
        Z: any matrix with one row a sample.
        Y: one-hot labels. A class without samples takes no part.
    """
    # A common offset in the class sums would cost digits when collapse happens.
    Z = centre(Z)
    counts = Y.sum(dim=-2).clamp(min=1.0)
    means = (Y.mT @ Z) / counts.unsqueeze(-1)
    return Z - Y @ means


def square_norm(Z: Float[Tensor, "*run n k"]) -> Float[Tensor, "*run"]:
    r"""Return :math:`\|Z\|_F^2`."""
    return Z.square().sum(dim=(-2, -1))


def operator_norm(Z: Float[Tensor, "*run k l"]) -> Float[Tensor, "*run"]:
    r"""Return :math:`\|Z\|_{op}`, NaN for a run with an entry that is not finite."""
    # LAPACK refuses a whole batch for one infinity or NaN.
    gram = Z.mT @ Z  # does not cost digits of the largest singular value
    finite = gram.isfinite().flatten(-2).all(dim=-1)
    largest: Tensor = torch.linalg.eigvalsh(gram.where(finite[..., None, None], 0.0))[..., -1]
    return largest.clamp(min=0.0).sqrt().where(finite, torch.nan)
