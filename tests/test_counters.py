import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nc_sweeps.counters import Stream, normals, permutations, philox


def _words(*values: int) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor([value]) for value in values)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        # Known answers published with Random123 (kat_vectors, philox4x32 with 10 rounds).
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers(counter, key, expected):
    assert tuple(int(word) for word in philox(_words(*counter), _words(*key))) == expected


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**40), st.integers(1, 9), st.data())
def test_a_number_depends_on_its_counter_alone(seed, step, components, data):
    chosen = torch.tensor(data.draw(st.lists(st.integers(0, 49), min_size=1, max_size=9)))
    seeds = torch.tensor([3, seed])
    everything = normals(seeds, Stream.NOISE, step, torch.arange(50), components, torch.float64)
    some = normals(seeds[1:], Stream.NOISE, step, chosen, components, torch.float64)
    assert torch.equal(some[0], everything[1, chosen])


def test_every_part_of_the_counter_matters():
    seeds = torch.tensor([1, 1 + 2**32, 2])
    draws = [
        normals(seeds, stream, step, torch.arange(6), 7, torch.float64).flatten()
        for stream in Stream
        for step in (0, 1, 2**32, 2**32 + 1)
    ]
    numbers = torch.cat(draws)
    assert len(numbers.unique()) == len(numbers)


def test_normals_are_standard_and_independent():
    # 400,000 numbers: Kolmogorov–Smirnov at level 1e-4 on the values, and covariance of components and neighbours.
    z = normals(torch.tensor([5]), Stream.NOISE, 9, torch.arange(100_000), 4, torch.float64)[0].numpy()
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-4
    # Entries of an empirical covariance deviate by 1/√n; 5 standard deviations over 16 entries.
    assert np.abs(np.cov(z.T) - np.eye(4)).max() < 5 * math.sqrt(2 / len(z))
    assert np.abs((z[1:] * z[:-1]).mean(axis=0)).max() < 5 / math.sqrt(len(z))


def test_float32_is_the_rounded_float64():
    arguments = (torch.tensor([5, 6]), Stream.NOISE, 2, torch.arange(1000), 5)
    double, single = normals(*arguments, torch.float64), normals(*arguments, torch.float32)
    # The angle's word is rounded to 24 bits: an error of 2π·2⁻²⁴ in the angle, times a radius of at most √(2·33·ln 2).
    assert (double - single).abs().max() < 8e-7 * math.sqrt(66 * math.log(2)) + 1e-6
    assert single.dtype == torch.float32


def test_permutations_are_permutations_and_uniform():
    n = 5
    orders = torch.cat([permutations(torch.tensor([1, 2]), Stream.BATCHES, epoch, n) for epoch in range(4000)])
    assert torch.equal(orders.sort(dim=1).values, torch.arange(n).expand(len(orders), n))
    counts = torch.stack([(orders == value).sum(dim=0) for value in range(n)])
    assert stats.chisquare(counts.numpy().ravel()).pvalue > 1e-4
