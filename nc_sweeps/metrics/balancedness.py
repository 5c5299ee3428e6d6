"""How far the last two layers are from being balanced (25)–(26)."""

import torch
from jaxtyping import Float
from torch import Tensor


def balancedness(second_moment: Float[Tensor, "*run p p"], W: Float[Tensor, "*run p q"]) -> Float[Tensor, "*run"]:
    r""":math:`\mathrm{NB} = \|\bar A - c^* W W^\top\|_{op} / \|\bar A\|_{op}` with
    :math:`c^* = \langle \bar A, W W^\top\rangle / \|W W^\top\|_F^2`; 0 when balanced, NaN when a layer vanishes.

    Args:
        second_moment: :math:`\bar A = A^\top A / N`.
        W: linear head.
    """
    # LAPACK refuses a whole batch for one infinity or NaN; those runs get NaN in the end.
    finite = second_moment.isfinite().flatten(-2).all(dim=-1) & W.isfinite().flatten(-2).all(dim=-1)
    second_moment = second_moment.where(finite[..., None, None], 0.0)
    gram = W.where(finite[..., None, None], 0.0)
    gram = gram @ gram.mT
    scale = (second_moment * gram).sum(dim=(-2, -1)) / gram.square().sum(dim=(-2, -1))
    difference = second_moment - scale[..., None, None] * gram
    numerator = torch.linalg.matrix_norm(torch.nan_to_num(difference), ord=2)
    return torch.where(scale.isnan(), torch.nan, numerator / torch.linalg.matrix_norm(second_moment, ord=2))
