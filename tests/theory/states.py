"""Random states of a network, for tests of bounds that hold for all of them."""

import torch


def random_states(generator, *, runs, q, p, n, near_collapse, deficient):
    """Features from arbitrary to nearly collapsed onto the head, with unbalanced classes."""

    def randn(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    labels = torch.cat([torch.arange(q), torch.randint(q, (n - q,), generator=generator)])
    Y = torch.nn.functional.one_hot(labels, q).double().expand(runs, n, q)
    W = randn(runs, p, q)
    if deficient:
        W[..., -1] = W[..., 0] * (1 + (1e-7 * randn(runs, 1) if deficient == "nearly" else 0.0))
    gamma = torch.exp(randn(runs))
    target = Y @ torch.linalg.pinv(W) / gamma[:, None, None]
    spread = torch.exp(-4 * torch.rand(runs, 1, 1, generator=generator, dtype=torch.float64) * near_collapse)
    return target + spread * randn(runs, n, p) * target.std(), W, Y, gamma
