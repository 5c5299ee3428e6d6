r"""Stage 1 at infinite width as a convex problem in the residual alone.

Fix the head W and let :math:`\lambda = \lambda_\rho`. The minimiser of the free energy :math:`E_n` is the Gibbs law of
Prop. 5.1, and a Gibbs law is given by a residual :math:`r \in \mathbb R^{n \times q}`:

.. math::
    \rho_r(a, u) \propto \exp\bigl(-\tfrac{\beta\gamma}{n} a^\top W r^\top\sigma(Xu)
        - \tfrac{\beta\lambda}{2}(\|a\|^2 + \|u\|^2)\bigr).

The integral over a is Gaussian. With :math:`c = \beta\gamma^2/(2\lambda n^2)` the law of u is :math:`\mathcal N(0,
(\beta\lambda)^{-1} I)` tilted by :math:`\exp(c\,\|W r^\top\sigma(Xu)\|^2)`, and with :math:`K_r =
\mathbb{E}_{\rho_r}[\sigma\sigma^\top]` the features are :math:`H_r = -\frac{\gamma}{n\lambda} K_r r W^\top`. The
optimal residual minimises

.. math::
    J(r) = \frac{\|r\|_F^2}{2n} + \frac{\langle r, Y\rangle}{n} + \beta^{-1}\log Z(r), \qquad
    \nabla J = (r + Y - \gamma H_r W)/n, \qquad \nabla^2 J \succeq I/n.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from nc_sweeps.activations import Activation
from nc_sweeps.errors import UserError
from nc_sweeps.oracle.nodes import Nodes

#: Largest size of the Hessian, samples × classes: 128 MiB.
MAX_UNKNOWNS = 4096
#: Elements of a block of the products that make up the Hessian.
_BLOCK_ELEMENTS = 2**20


class OracleError(UserError):
    """An infinite-width solution that cannot be found to the accuracy asked for."""


@dataclass(frozen=True)
class GibbsProblem:
    r"""Stage 1 of one run: the head fixed, no truncation.

    Args:
        X: inputs, float64.
        Y: one-hot labels.
        W: linear head.
        gamma: output scale :math:`\gamma`.
        lambda_rho: weight decay :math:`\lambda > 0` of the particles.
        beta: inverse temperature, positive and finite.
        activation: :math:`\sigma`.

    Raises:
        OracleError: a scale is not positive and finite, the head is zero, or there are more unknowns than the Hessian
            can hold.
    """

    X: Float[Tensor, "n d"]
    Y: Float[Tensor, "n q"]
    W: Float[Tensor, "p q"]
    gamma: float
    lambda_rho: float
    beta: float
    activation: Activation

    def __post_init__(self) -> None:
        for name in ("beta", "lambda_rho", "gamma"):
            value = getattr(self, name)
            if not 0.0 < value < math.inf:
                raise OracleError(f"there is no Gibbs law for {name} = {value:g}: it has to be positive and finite")
        if not bool(self.W.any()):
            raise OracleError("the head is zero: nothing is learned in stage 1")
        if self.Y.numel() > MAX_UNKNOWNS:
            n, q = self.Y.shape
            raise OracleError(
                f"{n} samples × {q} classes are {n * q} unknowns, above {MAX_UNKNOWNS}: use fewer samples"
            )

    @cached_property
    def inputs(self) -> Float[Tensor, "n k"]:
        """Coordinates of X in the k ≤ min(n, d) principal directions that it spans; in all others u is Gaussian."""
        left, singular, _ = torch.linalg.svd(self.X, full_matrices=False)
        rank = max(1, int(torch.linalg.matrix_rank(self.X)))
        inputs: Tensor = left[:, :rank] * singular[:rank]
        return inputs

    @property
    def dimension(self) -> int:
        """Dimension k of the integral over u."""
        return self.inputs.shape[1]

    @property
    def concentration(self) -> float:
        r"""Inverse variance :math:`\beta\lambda` of the particles where there is no loss."""
        return self.beta * self.lambda_rho

    @property
    def tilt_scale(self) -> float:
        r"""Scale :math:`c = \beta\gamma^2 / (2\lambda n^2)` of the tilt."""
        return self.beta * self.gamma**2 / (2.0 * self.lambda_rho * len(self.X) ** 2)

    @property
    def gain(self) -> float:
        r"""Factor :math:`\gamma/(n\lambda)`; the mean of a given u is :math:`-W r^\top\sigma(Xu)` times it."""
        return self.gamma / (len(self.X) * self.lambda_rho)

    @property
    def gram(self) -> Float[Tensor, "q q"]:
        r"""Gram matrix :math:`G = W^\top W` of the head."""
        return self.W.mT @ self.W

    def activations(self, points: Float[Tensor, "nodes k"]) -> Float[Tensor, "nodes n"]:
        r"""Return :math:`\sigma(Xu)^\top` at :math:`u = (\beta\lambda)^{-1/2} z`, in the coordinates of :attr:`inputs`.

        Args:
            points: z, standard normal where there is no loss.
        """
        return self.activation.value(points @ self.inputs.mT / math.sqrt(self.concentration))

    def log_tilt(self, S: Float[Tensor, "nodes n"], r: Float[Tensor, "n q"]) -> Float[Tensor, "nodes"]:
        r"""Return :math:`c\,\|W r^\top\sigma\|^2`; S has a row for each node."""
        v = S @ r
        return self.tilt_scale * (v @ self.gram * v).sum(dim=1)


class Dual:
    r"""J, its derivatives and the features, with the law of u on nodes.

    On any number of nodes J is as strongly convex as the exact J, so that it has exactly one minimiser.

    Args:
        problem: problem that is solved.
        nodes: nodes of the whitened first layer :math:`z = (\beta\lambda)^{1/2} u`, in the coordinates of
            :attr:`GibbsProblem.inputs`.
    """

    def __init__(self, problem: GibbsProblem, nodes: Nodes) -> None:
        self.problem = problem
        self.nodes = nodes
        self.S = problem.activations(nodes.points)

    def value(self, r: Float[Tensor, "n q"]) -> Float[Tensor, ""]:
        """Return J(r)."""
        n, beta = len(r), self.problem.beta
        return r.square().sum() / (2 * n) + (r * self.problem.Y).sum() / n + self.log_partition(r) / beta

    def gradient(self, r: Float[Tensor, "n q"]) -> Float[Tensor, "n q"]:
        r"""Return :math:`\nabla J(r) = (r + Y - \gamma H_r W)/n`."""
        return (r + self.problem.Y - self.predictions(r)) / len(r)

    def hessian(self, r: Float[Tensor, "n q"]) -> Float[Tensor, "nq nq"]:
        r"""Return the Hessian. With :math:`s = \sigma(Xu)`, :math:`v = r^\top s` and :math:`G = W^\top W`, rows of r
        one after the other,

        .. math::
            \nabla^2 J = I/n + \beta^{-1}\bigl(2c\,K_r \otimes G
                + (2c)^2\,\mathrm{Cov}_{\rho_r}[s \otimes Gv]\bigr).
        """
        beta, c = self.problem.beta, self.problem.tilt_scale
        probabilities = self.probabilities(r)
        drift = (self.S @ r) @ self.problem.gram
        mean = self.S.mT @ (probabilities[:, None] * drift)
        hessian = torch.kron(2 * c * self.kernel(r), self.problem.gram)
        # Each block of nodes is a tall matrix with a row s ⊗ Gv − mean a node.
        width = max(1, _BLOCK_ELEMENTS // r.numel())
        for start in range(0, len(drift), width):
            block = slice(start, start + width)
            rows = (self.S[block, :, None] * drift[block, None, :] - mean).flatten(1)
            rows *= 2 * c * probabilities[block, None].sqrt()
            hessian.addmm_(rows.mT, rows)
        return torch.eye(r.numel(), dtype=r.dtype) / len(r) + hessian / beta

    def log_partition(self, r: Float[Tensor, "n q"]) -> Float[Tensor, ""]:
        r"""Return :math:`\log Z(r) = \log\int e^{-\frac{\beta\gamma}{n} a^\top W r^\top\sigma(Xu)
        - \frac{\beta\lambda}{2}(\|a\|^2 + \|u\|^2)}\,da\,du`, the integral over a included.
        """
        layers = self.problem.X.shape[1] + len(self.problem.W)
        base = layers / 2 * math.log(2 * math.pi / self.problem.concentration)
        return base + self._log_density(r).logsumexp(dim=0)

    def probabilities(self, r: Float[Tensor, "n q"]) -> Float[Tensor, "nodes"]:
        r"""Return the law :math:`\rho_r(u)` on the nodes."""
        return self._log_density(r).softmax(dim=0)

    def kernel(self, r: Float[Tensor, "n q"]) -> Float[Tensor, "n n"]:
        r"""Return :math:`K_r = \mathbb{E}_{\rho_r}[\sigma\sigma^\top]`."""
        return self.S.mT @ (self.probabilities(r)[:, None] * self.S)

    def features(self, r: Float[Tensor, "n q"]) -> Float[Tensor, "n p"]:
        r"""Return :math:`H_r = -\frac{\gamma}{n\lambda} K_r r W^\top`."""
        return -self.problem.gain * self.kernel(r) @ r @ self.problem.W.mT

    def predictions(self, r: Float[Tensor, "n q"]) -> Float[Tensor, "n q"]:
        r"""Return :math:`F_r = \gamma H_r W`."""
        return self._predictions(r, slice(None))

    def log_partition_error(self, r: Float[Tensor, "n q"]) -> float:
        r"""Return the error of :math:`\log Z(r)`, found from the replicas of the nodes."""
        log_density = self._log_density(r)
        replicas = [log_density[k.part].logsumexp(dim=0) + math.log(k.scale) for k in self.nodes.replicas]
        return self.nodes.error(log_density.logsumexp(dim=0), replicas)

    def predictions_with_error(self, r: Float[Tensor, "n q"]) -> tuple[Float[Tensor, "n q"], float]:
        r"""Return :math:`F_r` and its error in Frobenius norm."""
        F, replicas = self._replica_predictions(r)
        return F, self.nodes.error(F, replicas)

    def replica_minimisers(self, r: Float[Tensor, "n q"]) -> list[Float[Tensor, "n q"]]:
        r"""Return the minimisers of J on the replicas, to first order: :math:`r + (n\nabla^2 J)^{-1}(F_k - F_r)` with
        the predictions :math:`F_k` of the replica. The loss pulls an error of the integrals back.

        Args:
            r: the minimiser of J.
        """
        F, replicas = self._replica_predictions(r)
        factor = torch.linalg.cholesky(len(r) * self.hessian(r))
        return [r + torch.cholesky_solve((F_k - F).reshape(-1, 1), factor).reshape_as(r) for F_k in replicas]

    def effective_samples(self, r: Float[Tensor, "n q"]) -> float:
        r"""Return :math:`1/\sum_m \pi_m^2`: how many nodes of equal weight the law of u is worth."""
        return 1.0 / float(self.probabilities(r).square().sum())

    def _log_density(self, r: Tensor) -> Tensor:
        return self.nodes.log_weights + self.problem.log_tilt(self.S, r)

    def _predictions(self, r: Tensor, part: slice) -> Tensor:
        """Return F_r from some of the nodes."""
        S = self.S[part]
        probabilities = (self.nodes.log_weights[part] + self.problem.log_tilt(S, r)).softmax(dim=0)
        Kr = S.mT @ (probabilities[:, None] * (S @ r))
        return -self.problem.gamma * self.problem.gain * Kr @ self.problem.gram

    def _replica_predictions(self, r: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self.predictions(r), [self._predictions(r, replica.part) for replica in self.nodes.replicas]
