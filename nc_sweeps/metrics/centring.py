r"""Parts of a matrix with a row a sample, centred and within classes, and the size of matrices.

Leading axes (runs) are batched. A tilde removes column means;
:math:`Z_w` is the within-class part of Z, :math:`Z_b = \tilde Z - Z_w` the between-class part.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def centred(Z: Float[Tensor, "*run n k"]) -> Float[Tensor, "*run n k"]:
    r""":math:`\tilde Z`: Z without its column means.

    The first row is taken off before the mean: a common offset costs no digits, and rows that are all equal give
    exactly zero.
    """
    Z = Z - Z[..., :1, :]
    return Z - Z.mean(dim=-2, keepdim=True)


def within_class(Z: Float[Tensor, "*run n k"], Y: Float[Tensor, "*run n q"]) -> Float[Tensor, "*run n k"]:
    r""":math:`Z_w`: Z without its class means.

    Args:
        Z: any matrix with a row a sample.
        Y: one-hot labels. A class without samples takes no part.
    """
    # Centring first keeps the class sums free of a common offset, which would cost digits when collapse happens.
    Z = centred(Z)
    counts = Y.sum(dim=-2).clamp(min=1.0)
    means = (Y.mT @ Z) / counts.unsqueeze(-1)
    return Z - Y @ means


def square_norm(Z: Float[Tensor, "*run n k"]) -> Float[Tensor, "*run"]:
    r""":math:`\|Z\|_F^2`."""
    return Z.square().sum(dim=(-2, -1))


def operator_norm(Z: Float[Tensor, "*run k l"]) -> Float[Tensor, "*run"]:
    r""":math:`\|Z\|_{op}`, NaN for a run with an entry that is not finite."""
    # LAPACK refuses a whole batch for one infinity or NaN.
    gram = Z.mT @ Z  # the largest singular value loses no digits by it
    finite = gram.isfinite().flatten(-2).all(dim=-1)
    largest: Tensor = torch.linalg.eigvalsh(gram.where(finite[..., None, None], 0.0))[..., -1]
    return largest.clamp(min=0.0).sqrt().where(finite, torch.nan)
