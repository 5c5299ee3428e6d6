r"""The three-layer mean-field network (1)–(3), many at a time.

.. math::
    h_\rho(x) = \mathbb{E}_{(a,u)\sim\rho}[a\,\sigma(u^\top x)], \qquad f(x) = \gamma\, W^\top h_\rho(x)

with :math:`\rho` the empirical measure of N particles. A process holds all of them or some
(:class:`~nc_sweeps.models.shard.Shard`).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nc_sweeps.activations import Activation
from nc_sweeps.counters import Stream, normals
from nc_sweeps.models.first_layer import FirstLayer
from nc_sweeps.models.shard import Shard
from nc_sweeps.models.truncation import Truncation

#: Parameters that have one row for each particle; every process has the same of all others.
PARTICLES = ("U", "A")


class MeanFieldNetworks(nn.Module):
    """R mean-field networks of one shape as one set of batched tensors; a single network is R = 1.

    Args:
        U: first layer of the particles of this process, (run, own, d).
        A: their second layer, (run, own, p).
        W: linear head, (run, p, q).
        gamma: output scale γ of each run, (run,).
        activation: σ.
        truncation: τ_R of the second layer; None: R = ∞.
        shard: which particles this process holds; None: all.
    """

    gamma: Tensor

    def __init__(
        self,
        U: Float[Tensor, "run own d"],
        A: Float[Tensor, "run own p"],
        W: Float[Tensor, "run p q"],
        gamma: Float[Tensor, "run"],
        activation: Activation,
        truncation: Truncation | None = None,
        shard: Shard | None = None,
    ) -> None:
        super().__init__()
        # The flow has gradients of its own and needs no autograd.
        self.U = nn.Parameter(U.contiguous(), requires_grad=False)
        self.A = nn.Parameter(A.contiguous(), requires_grad=False)
        self.W = nn.Parameter(W.contiguous(), requires_grad=False)
        self.register_buffer("gamma", gamma, persistent=False)
        self.activation = activation
        self.truncation = truncation
        self.shard = shard or Shard(U.shape[1])

    @property
    def runs(self) -> int:
        """Number of networks R."""
        return self.U.shape[0]

    @property
    def particles(self) -> int:
        """Number of particles N of each network, in all processes together."""
        return self.shard.particles

    @property
    def second_layer(self) -> Float[Tensor, "run own p"]:
        r"""Second layer as the features see it, :math:`\tau_R(A)`."""
        return self.A if self.truncation is None else self.truncation.value(self.A)

    @property
    def second_moment(self) -> Float[Tensor, "run p p"]:
        r"""Second moment :math:`\bar A = A^\top A/N` of the second layer, in float64."""
        A = self.A.double()
        return self.shard.mean(A.mT @ A)

    def first_layer(self, X: Float[Tensor, "run n d"]) -> FirstLayer:
        """Return the passes through the first layer on some inputs."""
        return FirstLayer(self.U, X, self.activation, self.shard)

    def features(self, X: Float[Tensor, "run n d"]) -> Float[Tensor, "run n p"]:
        r"""Return the features :math:`H = \sigma(X U^\top)\, \tau_R(A) / N` (2)."""
        return self.first_layer(X).particle_mean(self.second_layer)

    def forward(self, X: Float[Tensor, "run n d"]) -> Float[Tensor, "run n q"]:
        r"""Return the predictions :math:`F = \gamma H W` (3)."""
        return self.gamma[:, None, None] * torch.bmm(self.features(X), self.W)


def initialise_networks(
    seeds: Sequence[int],
    *,
    particles: int,
    dimension: int,
    features: int,
    classes: int,
    scale_u: Sequence[float],
    scale_a: Sequence[float],
    scale_w: Sequence[float],
    gamma: Sequence[float],
    activation: Activation,
    dtype: torch.dtype,
    truncation: Truncation | None = None,
    processes: int = 1,
) -> MeanFieldNetworks:
    r"""Return networks in the initial state of Assumption 1.

    Particles are :math:`\mathcal N(0, \mathrm{diag}(s_a^2 I_p, s_u^2 I_d))`, and the head has orthonormal columns,
    :math:`W_0^\top W_0 = s_w^2 I_q`.

    Args:
        seeds: seed of each run.
        particles, dimension, features, classes: N, d, p ≥ q, q.
        scale_u, scale_a, scale_w: standard deviations :math:`s_u, s_a` and the scale :math:`s_w` of each run.
        gamma: γ of each run.
        activation: σ.
        dtype: floating-point type of the state. Numbers are drawn in float64 and rounded once.
        truncation: τ_R; None: R = ∞.
        processes: number of processes over which the particles are spread; those of this process are returned.
    """
    shard = Shard.of_this_process(particles, processes)
    key = torch.tensor(list(seeds), dtype=torch.int64)
    which, width = shard.indices, features + dimension
    U = torch.empty(len(key), len(which), dimension, dtype=dtype)
    A = torch.empty(len(key), len(which), features, dtype=dtype)
    for run in range(len(key)):  # one after another, since float64 numbers and their counters take memory
        theta = normals(key[[run]], Stream.PARTICLES, 0, which, width, torch.float64)[0]
        U[run], A[run] = scale_u[run] * theta[:, features:], scale_a[run] * theta[:, :features]
    head = _orthonormal(normals(key, Stream.HEAD, 0, torch.arange(features), classes, torch.float64))
    return MeanFieldNetworks(
        U=U,
        A=A,
        W=(_column(scale_w) * head).to(dtype),
        gamma=torch.tensor(list(gamma), dtype=dtype),
        activation=activation,
        truncation=truncation,
        shard=shard,
    )


def _orthonormal(Z: Float[Tensor, "run p q"]) -> Float[Tensor, "run p q"]:
    """Return Haar-distributed orthonormal columns: those of a QR decomposition in which R has a positive diagonal."""
    Q, R = torch.linalg.qr(Z)
    columns: Tensor = Q * torch.sgn(torch.diagonal(R, dim1=-2, dim2=-1)).unsqueeze(-2)
    return columns


def _column(values: Sequence[float]) -> Float[Tensor, "run 1 1"]:
    return torch.tensor(list(values), dtype=torch.float64)[:, None, None]
