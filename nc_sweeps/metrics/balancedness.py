"""The distance of the last two layers from balanced ones (25)–(26)."""

import torch
from jaxtyping import Float
from torch import Tensor

from nc_sweeps.metrics.centring import operator_norm, square_norm


def balancedness(second_moment: Float[Tensor, "*run p p"], W: Float[Tensor, "*run p q"]) -> Float[Tensor, "*run"]:
    r"""Return :math:`\mathrm{NB} = \|\bar A - c^* W W^\top\|_{op} / \|\bar A\|_{op}` with
    :math:`c^* = \langle \bar A, W W^\top\rangle / \|W W^\top\|_F^2`; 0 for balanced layers, NaN when a layer vanishes.

    Args:
        second_moment: :math:`\bar A = A^\top A / N`.
        W: linear head.
    """
    gram = W @ W.mT
    scale = (second_moment * gram).sum(dim=(-2, -1)) / square_norm(gram)
    sizes = operator_norm(torch.stack([second_moment - scale[..., None, None] * gram, second_moment]))
    return sizes[0] / sizes[1]
