r"""The imbalance law: how far the last two layers are from balance, for all data, losses and activations.

With :math:`\bar A = A^\top A/N` let :math:`D = \bar A - W W^\top`. Along the flow (20), with both layers moving on the
same batch and no truncation, the loss drops out of dD/dt: the gradients of the two layers, each contracted with its
layer, are the same matrix. What is left is

.. math::
    \frac{dD}{dt} = -2\lambda_\rho D + 2\beta^{-1} I - 2(\lambda_\rho - \lambda_W) W W^\top

up to a martingale of the order :math:`N^{-1/2}`. Its stationary point is Lemma 4.5 (19). Discretised flows obey exact
laws of their own, which :func:`discrete_law` states for every N, batch and loss.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nc_sweeps.metrics.centring import square_norm


def imbalance(second_moment: Float[Tensor, "*run p p"], W: Float[Tensor, "*run p q"]) -> Float[Tensor, "*run p p"]:
    r"""Return :math:`D = \bar A - W W^\top`, in float64.

    Args:
        second_moment: :math:`\bar A = A^\top A/N`, in float64.
        W: linear head.
    """
    W = W.double()
    return second_moment - W @ W.mT


def stationary_residual(
    second_moment: Float[Tensor, "*run p p"],
    W: Float[Tensor, "*run p q"],
    lambda_rho: Float[Tensor, "*run"],
    lambda_w: Float[Tensor, "*run"],
    beta: Float[Tensor, "*run"],
) -> Float[Tensor, "*run"]:
    r"""Return the residual of Lemma 4.5 (19), :math:`\|\lambda_\rho \bar A - \lambda_W W W^\top - \beta^{-1} I_p\|_F`.

    It is 0 at stationary points of infinite width.

    Args:
        second_moment: :math:`\bar A = A^\top A/N`.
        W: linear head.
        lambda_rho, lambda_w: weight decays.
        beta: inverse temperature, infinite without noise.
    """
    identity = torch.eye(W.shape[-2], dtype=W.dtype, device=W.device)
    head = _matrix(lambda_w) * (W @ W.mT)
    return square_norm(_matrix(lambda_rho) * second_moment - head - _matrix(1.0 / beta) * identity).sqrt()


class ImbalanceLaw(nn.Module):
    r"""The law integrated beside a flow, with the size of the deviation from it that finite width causes.

    Args:
        beta, lambda_rho, lambda_w: β, λ_ρ and λ_W of the runs.

    Attributes:
        D: imbalance that the law predicts for now, (run, p, p); empty before the first :meth:`restart`.
        spread: :math:`\int_0^t e^{-4\lambda_\rho(t-s)} \operatorname{tr} \bar A_s\,ds`, (run,).
    """

    beta: Tensor
    lambda_rho: Tensor
    lambda_w: Tensor
    D: Tensor
    spread: Tensor

    def __init__(
        self,
        beta: Float[Tensor, "run"],
        lambda_rho: Float[Tensor, "run"],
        lambda_w: Float[Tensor, "run"],
    ) -> None:
        super().__init__()
        # Buffers move to a device with the networks whose law this is.
        self.register_buffer("beta", beta, persistent=False)
        self.register_buffer("lambda_rho", lambda_rho, persistent=False)
        self.register_buffer("lambda_w", lambda_w, persistent=False)
        self.register_buffer("D", beta.new_zeros(len(beta), 0, 0))
        self.register_buffer("spread", torch.zeros_like(beta))

    @property
    def follows_head(self) -> bool:
        """Whether the law depends on the history of W, so that it must be advanced at every step."""
        return bool((self.lambda_rho != self.lambda_w).any())

    def restart(
        self, runs: Bool[Tensor, "run"], second_moment: Float[Tensor, "run p p"], W: Float[Tensor, "run p q"]
    ) -> None:
        """Start the law of some runs anew from their present imbalance."""
        D = imbalance(second_moment, W)
        self.D = D if runs.all() else torch.where(_matrix(runs), D, self.D)
        self.spread = torch.where(runs, 0.0, self.spread)

    def advance(self, duration: Float[Tensor, "run"], grams: Float[Tensor, "run steps p p"]) -> None:
        r"""Follow the law over some steps.

        Args:
            duration: duration of each of the steps.
            grams: :math:`W W^\top`, the mean of the two ends of every step.
        """
        steps = grams.shape[1]
        rate = 2.0 * self.lambda_rho
        _, weight = _relaxation(rate, duration)
        # The contribution of a step decays during the later ones.
        left = torch.arange(steps - 1, -1, -1, dtype=grams.dtype, device=grams.device)
        remembered = torch.exp(-(rate * duration).unsqueeze(-1) * left)
        identity = torch.eye(grams.shape[-1], dtype=grams.dtype, device=grams.device)
        head = torch.einsum("rs,rspq->rpq", remembered, grams)
        drive = _matrix(2.0 / self.beta * remembered.sum(-1)) * identity
        drive = drive - _matrix(2.0 * (self.lambda_rho - self.lambda_w)) * head
        forget, _ = _relaxation(rate, steps * duration)
        self.D = _matrix(forget) * self.D + _matrix(weight) * drive

    def accumulate(self, duration: Float[Tensor, "run"], second_moment_trace: Float[Tensor, "run"]) -> None:
        r"""Follow the size of the deviation over an interval of time.

        Args:
            duration: duration of the interval.
            second_moment_trace: :math:`\operatorname{tr} \bar A`, the mean of the two ends of the interval.
        """
        forget, weight = _relaxation(4.0 * self.lambda_rho, duration)
        self.spread = forget * self.spread + weight * second_moment_trace

    def expected_deviation(self, particles: int) -> Float[Tensor, "run"]:
        r"""Return the size of the deviation from the law that N particles cause, 0 without noise: the root of

        .. math::
            E\|D_t - \mathrm{law}\|_F^2
            = \frac{4(p+1)}{\beta N}\int_0^t e^{-4\lambda_\rho(t-s)} E\operatorname{tr}\bar A_s\,ds.
        """
        return (4.0 * (self.D.shape[-1] + 1) / (self.beta * particles) * self.spread).sqrt()


def discrete_law(
    D: Float[Tensor, "p p"],
    A: Float[Tensor, "N p"],
    W: Float[Tensor, "p q"],
    gradient_A: Float[Tensor, "N p"],
    gradient_W: Float[Tensor, "p q"],
    noise: Float[Tensor, "N p"],
    coefficients_A: tuple[float, float, float],
    coefficients_W: tuple[float, float],
) -> Float[Tensor, "p p"]:
    r"""Return the imbalance after one step of a discretised flow, from the imbalance before it; exact for every N.

    A step takes :math:`a_j \to e\,a_j - c\,g_j + s\,\xi_j` and :math:`W \to e_W W - c_W \Gamma`. If the coefficients of
    both layers agree (:math:`\lambda_\rho = \lambda_W`) the cross terms cancel, since
    :math:`\mathrm{mean}_j\, a_j g_j^\top = \Gamma W^\top`, and

    .. math::
        D^+ = e^2 D + c^2 Q + s^2 I + M, \qquad Q = \mathrm{mean}_j\, g_j g_j^\top - \Gamma \Gamma^\top,

    .. math::
        M = s^2(\mathrm{mean}_j\, \xi_j \xi_j^\top - I) + s\,\mathrm{sym}[\mathrm{mean}_j (e a_j - c g_j) \xi_j^\top].

    Otherwise :math:`-(ec - e_W c_W)(W\Gamma^\top + \Gamma W^\top)` remains, :math:`(e^2 - e_W^2) W W^\top` is added,
    and Q has the c of each layer.

    Args:
        D: imbalance before the step.
        A, W: layers before the step.
        gradient_A, gradient_W: :math:`g_j` in rows and Γ, gradients of the loss without weight decay.
        noise: ξ of the second layer.
        coefficients_A: e, c, s of the particles.
        coefficients_W: e, c of the head.
    """
    N = len(A)
    e, c, s = coefficients_A
    e_w, c_w = coefficients_W
    cross = W @ gradient_W.mT
    moved = (e * A - c * gradient_A).mT @ noise / N
    return (
        e**2 * D
        + (e**2 - e_w**2) * (W @ W.mT)
        - (e * c - e_w * c_w) * (cross + cross.mT)
        + c**2 * (gradient_A.mT @ gradient_A) / N
        - c_w**2 * (gradient_W @ gradient_W.mT)
        + s**2 * (noise.mT @ noise) / N
        + s * (moved + moved.mT)
    )


def _relaxation(
    rate: Float[Tensor, "run"], duration: Float[Tensor, "run"]
) -> tuple[Float[Tensor, "run"], Float[Tensor, "run"]]:
    r"""Return :math:`e^{-rt}` and :math:`\int_0^t e^{-rs}\,ds`."""
    growth = torch.expm1(-rate * duration)
    return 1.0 + growth, torch.where(rate == 0.0, duration, -growth / torch.where(rate == 0.0, 1.0, rate))


def _matrix(values: Tensor) -> Tensor:
    """Return one value for each run, shaped to multiply a matrix for each run."""
    return values[..., None, None]
