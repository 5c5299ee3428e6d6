"""JAX as its users write it: ``jit(vmap(scan))`` of a step with ``jax.grad`` and ``jax.random.normal``."""

from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.problem import STEP_SIZE, Problem


class JaxScan:
    """Takes steps; their number is part of the compiled program."""

    def __init__(self, problem: Problem) -> None:
        import jax
        import jax.numpy as jnp

        self.jax, self.problem = jax, problem
        N, decay, noise = problem.N, problem.decay, problem.noise

        def loss(parameters: Any, X: Any, Y: Any) -> Any:
            U, A, W = parameters
            F = jnp.tanh(X @ U.T) @ A / N @ W
            return ((F - Y) ** 2).sum() / (2 * len(X))

        def step(X: Any, Y: Any, parameters: Any, given: Any) -> tuple[Any, None]:
            key, chosen = given
            samples = (X, Y) if chosen is None else (X[chosen], Y[chosen])
            U, A, W = parameters
            g_U, g_A, g_W = jax.grad(loss)(parameters, *samples)
            U = U - STEP_SIZE * (N * g_U + decay * U)
            A = A - STEP_SIZE * (N * g_A + decay * A)
            W = W - STEP_SIZE * (g_W + decay * W)
            if problem.noisy:
                key_U, key_A = jax.random.split(key)
                U = U + noise * jax.random.normal(key_U, U.shape)
                A = A + noise * jax.random.normal(key_A, A.shape)
            return (U, A, W), None

        def run(parameters: Any, X: Any, Y: Any, key: Any, batches: Any, steps: int) -> Any:
            keys = jax.random.split(key, steps)
            return jax.lax.scan(partial(step, X, Y), parameters, (keys, batches))[0]

        def all_runs(parameters: Any, X: Any, Y: Any, keys: Any, batches: Any, steps: int) -> Any:
            axes = (0, 0, 0, 0, None)
            return jax.vmap(partial(run, steps=steps), in_axes=axes)(parameters, X, Y, keys, batches)

        # The old state is donated: the new one may take its memory.
        self.advance = jax.jit(all_runs, static_argnames="steps", donate_argnums=0)
        self.parameters = tuple(jnp.array(Z.numpy()) for Z in problem.state())
        self.X, self.Y = (jnp.array(Z.numpy()) for Z in problem.data)
        self.key = jax.random.PRNGKey(0)
        self.generator = np.random.default_rng(0)

    def take(self, steps: int) -> None:
        """Take some steps."""
        self.key, key = self.jax.random.split(self.key)
        keys = self.jax.random.split(key, self.problem.runs)
        self.parameters = self.advance(self.parameters, self.X, self.Y, keys, self._draw_batches(steps), steps=steps)
        self.jax.block_until_ready(self.parameters)

    def state(self) -> tuple[torch.Tensor, ...]:
        """Return U, A and W."""
        return tuple(torch.from_numpy(np.array(Z)) for Z in self.parameters)

    def _draw_batches(self, steps: int) -> np.ndarray | None:
        """Return the samples of every step, which the scan gathers. The short last batch of an epoch is left out."""
        n, batch = self.problem.n, self.problem.batch
        if batch is None:
            return None
        epochs = -(-steps // (n // batch))
        orders = [self.generator.permutation(n)[: n // batch * batch].reshape(-1, batch) for _ in range(epochs)]
        return np.concatenate(orders)[:steps]
