r"""The stability of a step: how far the step size is from the edge beyond which steps do not follow the flow.

To first order, and but for noise and weight decay, a step of size η moves the residual r by
:math:`-(\eta/n)\,\Theta r`. The Gauss–Newton operator :math:`\Theta` is the Jacobian of the predictions in the
parameters times its transpose, where particles count N times (the mean-field scaling) and a head that is held does not
count:

.. math::
    \Theta v = \frac{\gamma^2}{N} \sum_j \sigma(X u_j)\, z_j^\top + \big(\sigma'(X u_j) \circ X g_j\big)\, b_j^\top,
    \qquad b_j = W^\top \tau_R(a_j), \qquad g_j = X^\top \big(\sigma'(X u_j) \circ v\, b_j\big),

.. math::
    z_j = W^\top \big(\tau_R'(a_j)^2 \circ W s_j\big) + C^\top \tau_R(a_j),
    \qquad s_j = v^\top \sigma(X u_j), \qquad C = \frac1N \sum_j \tau_R(a_j)\, s_j^\top,

with C = 0 while the head is held. It is symmetric and positive. Along the eigenvector of an eigenvalue
:math:`\lambda` a step multiplies the residual by :math:`1 - \eta\lambda/n`: from :math:`\eta\lambda/n = 1` on it
overshoots, and beyond 2 it grows.

With mini-batches, :math:`\Theta` is here that of the whole training set.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nc_sweeps import kernels
from nc_sweeps.counters import Stream, normals
from nc_sweeps.dynamics.flow import Flow
from nc_sweeps.models.first_layer import FirstLayer
from nc_sweeps.models.mean_field import MeanFieldNetworks
from nc_sweeps.models.truncation import limits

#: Applications of the operator in a measurement, 3 % of the time of a default sweep. Along default runs the value is
#: then less than 0.3 % below the eigenvalue on average, and up to 3 % where two eigenvalues cross.
APPLICATIONS = 5
#: The same in the first measurement of a run, which has no direction to start from.
FIRST_APPLICATIONS = 8
#: Name of the direction in the state of a run.
_DIRECTION = "stability.direction"
#: Share of a vector that is no direction but rounding.
_ROUNDING = 1e-6


class GaussNewton:
    r"""The operator :math:`\Theta` of an ensemble, whose state must not change while it is used.

    Args:
        networks: the networks.
        X: inputs of the training set.
        head_moves: whether each run's head is trained.
    """

    def __init__(
        self, networks: MeanFieldNetworks, X: Float[Tensor, "run n d"], head_moves: Bool[Tensor, "run"]
    ) -> None:
        self._networks = networks
        self._X = X
        self._head_moves = head_moves

    @cached_property
    def _first_layer(self) -> FirstLayer:
        return self._networks.first_layer(self._X)

    @cached_property
    def _B(self) -> Float[Tensor, "run own q"]:
        return torch.bmm(self._networks.second_layer, self._networks.W)

    def apply(self, v: Float[Tensor, "run n q"]) -> Float[Tensor, "run n q"]:
        r"""Return :math:`\Theta v`: how predictions move when parameters move by the gradients that v gives."""
        network = self._networks
        dU, Z = self._first_layer.sample_sums(self._B, v)
        dA = torch.bmm(Z, network.W.mT)
        if network.truncation is not None:
            dA *= network.truncation.slope(network.A).square()
        C = network.shard.mean(torch.bmm(network.second_layer.mT, Z)) * self._head_moves[:, None, None]
        dB = torch.bmm(dA, network.W).baddbmm_(network.second_layer, C)
        return network.gamma[:, None, None].square() * self._first_layer.particle_mean_derivative(self._B, dU, dB)

    def span(
        self, start: Float[Tensor, "run n q"], counts: Int[Tensor, "run"]
    ) -> tuple[Float[Tensor, "run most n q"], Float[Tensor, "run most n q"]]:
        """Return an orthonormal basis of the Krylov space of a start, by Lanczos' method, and what the operator makes
        of it. Where the space has fewer dimensions than asked for, vectors are zero.

        Args:
            start: not zero.
            counts: number of vectors of each run; those beyond are zero.
        """
        network = self._networks
        # Compiled code forms the activations once, from the particles of this process alone.
        if network.shard.is_whole and kernels.supports(network.activation.name, network.U):
            return kernels.span_krylov(
                network.U,
                network.A,
                network.W,
                self._X,
                activation=network.activation.name,
                gamma=network.gamma,
                truncation=limits(network.truncation),
                head_moves=self._head_moves,
                start=start,
                counts=counts,
            )
        v, basis, images = start, list[Tensor](), list[Tensor]()
        for count in range(int(counts.max())):
            rest, size = v.double(), _norm(v.double())
            for u in basis + basis:  # twice: once leaves the rounding of what it takes off
                rest = rest - (u * rest).sum(dim=(1, 2), keepdim=True) * u
            is_new = (_norm(rest) > _ROUNDING * size) & (count < counts)[:, None, None]
            v = torch.where(is_new, rest / _norm(rest), 0.0).to(start.dtype)
            basis.append(v)
            v = self.apply(v)
            images.append(v)
        return torch.stack(basis, dim=1), torch.stack(images, dim=1)


class Stability:
    """Measures the stability of the steps of a flow, from below.

    Eigenvectors change little from one measurement to the next, so each starts where the last one ended. It takes the
    largest Ritz value of a few applications: a Rayleigh quotient, which never exceeds the eigenvalue.

    Args:
        flow: the flow.
    """

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        #: The direction of each run that the latest measurement found, and that it started from; None: there is none.
        self._directions: list[Tensor | None] = [None] * flow.networks.runs
        self._starts = self._directions
        self._step: int | None = None

    @torch.no_grad()
    def measure(self, X: Float[Tensor, "run n d"], step: int) -> Float[Tensor, "run"]:
        r"""Return :math:`\eta\lambda_{\max}(\Theta)/n` of the step after a given one, or of the last.

        Measuring the same step once more starts from the same directions and gives the same.

        Args:
            X: inputs of the training set.
            step: number of steps taken.
        """
        flow = self._flow
        if step != self._step:
            self._step, self._starts = step, self._directions
        counts = [FIRST_APPLICATIONS if start is None else APPLICATIONS for start in self._starts]
        starts = [self._draw(run, X.shape[1]) if v is None else v for run, v in enumerate(self._starts)]
        before = min(step, flow.schedules[0].total - 1)
        with torch.autocast(X.device.type, enabled=False):
            operator = GaussNewton(flow.networks, X, ~flow.head_is_held(before))
            start = torch.stack([v.to(X) for v in starts])
            largest, directions = find_largest_eigenvalue(operator, start, torch.tensor(counts, device=X.device))
        self._directions = list(directions)
        step_sizes = largest.new_tensor([schedule.step_size(before + 1) for schedule in flow.schedules])
        return step_sizes * largest / X.shape[1]

    def state(self, run: int) -> dict[str, Tensor]:
        """Return what the next measurement of a run starts from, if it was measured, in main memory."""
        direction = self._directions[run]
        return {} if direction is None else {_DIRECTION: direction.cpu()}

    def restore(self, states: Sequence[dict[str, Tensor]]) -> None:
        """Go on from the states of all runs; the next measurement of one that has none is its first."""
        self._directions = [state.get(_DIRECTION) for state in states]

    def _draw(self, run: int, samples: int) -> Float[Tensor, "n q"]:
        """Return a direction that is a function of the seed of a run."""
        seed, q = self._flow.seeds[run : run + 1].cpu(), self._flow.networks.W.shape[2]
        return normals(seed, Stream.DIRECTIONS, 0, torch.arange(samples), q, torch.float64)[0]


def find_largest_eigenvalue(
    operator: GaussNewton, start: Float[Tensor, "run n q"], applications: Int[Tensor, "run"]
) -> tuple[Float[Tensor, "run"], Float[Tensor, "run n q"]]:
    """Return the largest Ritz value of the Krylov space of a start, and its vector.

    Args:
        operator: symmetric and positive.
        start: not zero.
        applications: how often each run's operator is applied, which is the dimension of its space.

    Returns:
        A lower bound of the largest eigenvalue, float64, NaN if the operator overflows; and a unit vector, in the type
        of the start, of which it is the Rayleigh quotient.
    """
    basis, images = operator.span(start, applications)
    V = basis.double()
    T = V.flatten(2) @ images.double().flatten(2).mT
    is_finite = T.isfinite().all(dim=(1, 2))
    values, vectors = torch.linalg.eigh(torch.where(is_finite[:, None, None], (T + T.mT) / 2, 0.0))
    direction = torch.einsum("rk,rknq->rnq", vectors[..., -1], V).to(start.dtype)
    is_useful = is_finite & (values[:, -1] > 0)
    return (
        torch.where(is_finite, values[:, -1], torch.nan),
        torch.where(is_useful[:, None, None], direction, start),
    )


def _norm(v: Float[Tensor, "run n q"]) -> Float[Tensor, "run 1 1"]:
    return v.square().sum(dim=(1, 2), keepdim=True).sqrt()
