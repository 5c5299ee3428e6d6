"""The regularised objective (4)."""

from jaxtyping import Float
from torch import Tensor


def regularised_loss(
    loss: Float[Tensor, "*run"],
    U: Float[Tensor, "*run N d"],
    A: Float[Tensor, "*run N p"],
    W: Float[Tensor, "*run p q"],
    lambda_rho: Float[Tensor, "*run"],
    lambda_w: Float[Tensor, "*run"],
) -> Float[Tensor, "*run"]:
    r""":math:`L_\lambda = L_n + \frac{\lambda_W}{2}\|W\|_F^2
    + \frac{\lambda_\rho}{2}\,\mathrm{mean}_j(\|a_j\|^2 + \|u_j\|^2)`.

    Args:
        loss: :math:`L_n`.
        U, A, W: the layers.
        lambda_rho, lambda_w: weight decays.
    """
    # Sums accumulate in the type of the loss (float64): N·d float32 squares would lose digits.
    particles = sum(Z.square().sum(dim=(-2, -1), dtype=loss.dtype) for Z in (U, A)) / U.shape[-2]
    head = W.square().sum(dim=(-2, -1), dtype=loss.dtype)
    return loss + lambda_w / 2 * head + lambda_rho / 2 * particles
