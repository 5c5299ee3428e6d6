r"""Randomness without history: every random number is a function of a counter.

The Philox 4x32-10 bijection computes a run's initialisation, noise and mini-batches from the counter *(seed, stream,
step, index, component)*. So they do not depend on which runs are packed with it, on which device holds which particles,
or on where training was stopped and resumed.

Reference:
    Salmon, Moraes, Dror, Shaw, *Parallel random numbers: as easy as 1, 2, 3* (SC 2011),
    https://doi.org/10.1145/2063384.2063405
"""

import math
from enum import IntEnum

import torch
from jaxtyping import Float, Int
from torch import Tensor

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


class Stream(IntEnum):
    """Purposes of random numbers; different streams of one seed are independent."""

    PARTICLES = 0
    HEAD = 1
    NOISE = 2
    BATCHES = 3
    NETWORK = 4
    DIRECTIONS = 5


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    r"""Return four pseudo-random 32-bit words for every counter, by Philox 4x32-10.

    Args:
        counter: four int64 tensors of words in :math:`[0, 2^{32})`, which broadcast against each other.
        key: two such tensors.

    Returns:
        Four int64 tensors of the broadcast shape, with words in :math:`[0, 2^{32})`.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # int64 products wrap modulo 2**64, which keeps all 64 bits; the mask undoes the sign of the shift.
        low, high = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((high >> 32) & _WORD) ^ c1 ^ k0,
            high & _WORD,
            ((low >> 32) & _WORD) ^ c3 ^ k1,
            low & _WORD,
        )
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


def words(
    seeds: Int[Tensor, "run"],
    stream: Stream,
    step: int | Int[Tensor, ""],
    indices: Int[Tensor, "index"],
    components: int,
) -> tuple[Tensor, ...]:
    """Return four words for every (run, index, block of four components), of shape (run, index, ⌈components/4⌉)."""
    blocks = torch.arange(-(-components // 4), device=seeds.device)
    step = torch.as_tensor(step, device=seeds.device)
    # The fourth word holds the stream and the bits of the step beyond the first 32.
    counter = (blocks, indices[:, None], step & _WORD, (step >> 32) << 8 | int(stream))
    seeds = seeds[:, None, None]
    return philox(counter, (seeds & _WORD, (seeds >> 32) & _WORD))


def normals(
    seeds: Int[Tensor, "run"],
    stream: Stream,
    step: int | Int[Tensor, ""],
    indices: Int[Tensor, "index"],
    components: int,
    dtype: torch.dtype,
) -> Float[Tensor, "run index {components}"]:
    """Return standard normals by Box and Muller, one row for each index (for noise: for each particle).

    Args:
        seeds: one non-negative seed for each run.
        stream: purpose of the numbers.
        step: time step (or epoch) to which they belong, as a number or on the device of the seeds.
        indices: numbers of the particles; any subset or order gives the same row for the same index.
        components: how many numbers each index gets.
        dtype: floating-point type in which the words are transformed, float32 or float64.

    Returns:
        Tensor of shape (run, index, components).
    """
    w0, w1, w2, w3 = words(seeds, stream, step, indices, components)
    pairs = []
    for radius_word, angle_word in ((w0, w1), (w2, w3)):
        # (word + ½)/2³² lies in (0, 1]: the logarithm stays finite in every floating-point type.
        radius = ((radius_word.to(dtype) + 0.5) * 2.0**-32).log_().mul_(-2.0).clamp_(min=0.0).sqrt_()
        angle = angle_word.to(dtype).mul_(2 * math.pi * 2.0**-32)
        pairs += [radius * angle.cos(), radius * angle.sin()]
    return torch.stack(pairs, dim=-1).flatten(-2)[..., :components]


def permutations(seeds: Int[Tensor, "run"], stream: Stream, epoch: int, size: int) -> Int[Tensor, "run {size}"]:
    """Return a uniform permutation of 0 … size−1 for each run, by sorting 62-bit random keys."""
    w0, w1, _, _ = words(seeds, stream, epoch, torch.arange(size, device=seeds.device), 1)
    keys = ((w0 << 30) | (w1 >> 2)).squeeze(-1)
    return torch.argsort(keys, dim=1, stable=True)
