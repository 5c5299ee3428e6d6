"""The compiled code against PyTorch's operations, and against itself: alone, packed, on more threads."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nc_sweeps import kernels
from nc_sweeps.activations import ACTIVATIONS
from nc_sweeps.counters import Stream, normals
from nc_sweeps.dynamics.flow import NEVER, Flow, Hyperparameters
from nc_sweeps.dynamics.gradients import linearise
from nc_sweeps.dynamics.integrators import INTEGRATORS
from nc_sweeps.dynamics.schedule import Piece, Schedule
from nc_sweeps.dynamics.stability import GaussNewton
from nc_sweeps.metrics.statistics import one_hot
from nc_sweeps.models.truncation import Truncation
from tests.networks import networks_of

COMPILED = ["tanh", "sigmoid", "relu", "softplus"]
#: Relative rounding of a type.
EPSILON = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}

shapes = st.tuples(*(st.integers(low, high) for low, high in ((1, 4), (1, 130), (1, 90), (1, 37), (2, 5), (0, 12))))
dtypes = st.sampled_from([torch.float32, torch.float64])


def test_there_is_a_compiled_step_here():
    assert {name for name in ACTIVATIONS if kernels.supports(name, torch.zeros(1))} == set(COMPILED)
    assert not kernels.supports("tanh", torch.zeros(1, dtype=torch.bfloat16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not kernels.supports("tanh", torch.zeros(1))


@settings(max_examples=40)
@given(
    shape=shapes, activation=st.sampled_from(COMPILED), dtype=dtypes, seed=st.integers(0, 2**31), shared=st.booleans()
)
def test_passes(shape, activation, dtype, seed, shared):
    runs, N, n, d, q, _ = shape
    generator = torch.Generator().manual_seed(seed)

    def randn(*size):
        return torch.randn(*size, generator=generator, dtype=dtype)

    U, Z, r = randn(runs, N, d), randn(runs, N, q), randn(runs, n, q)
    dU, dZ = randn(runs, N, d), randn(runs, N, q)
    X = randn(n, d).expand(runs, n, d) if shared else randn(runs, n, d)
    S = ACTIVATIONS[activation].value(torch.bmm(U.double(), X.double().mT))
    slope = ACTIVATIONS[activation].slope(S)
    mean = S.mT @ Z.double() / N
    sums = S @ r.double()
    gradient = ((Z.double() @ r.double().mT) * slope) @ X.double()
    derivative = S.mT @ dZ.double() + ((dU.double() @ X.double().mT) * slope).mT @ Z.double()
    found_mean = kernels.particle_sums(U, X, Z, activation) / N
    found_gradient, found_sums = kernels.sample_sums(U, X, Z, r, activation)
    found_derivative = kernels.particle_sums_derivative(U, X, Z, dU, dZ, activation)
    # Sums of at most 130 terms of an argument that is itself a sum of at most 37; each sum's own rounding grows at most
    # with the number of its terms, an activation's with the size of its argument, some √37.
    for found, expected, terms in (
        (found_mean, mean, N),
        (found_sums, sums, n),
        (found_gradient, gradient, n),
        (found_derivative / math.sqrt(d), derivative / math.sqrt(d), 2 * N),  # the change of an argument is some √d
    ):
        scale = expected.abs().max() + 1 + math.sqrt(terms)
        assert (found - expected).abs().max() <= 4 * (d + terms + q + 8) * EPSILON[dtype] * scale
        assert found.dtype == dtype


@given(
    seed=st.integers(0, 2**63 - 1),
    step=st.integers(0, 2**40),
    first=st.integers(0, 2**31),
    rows=st.integers(1, 20),
    components=st.integers(1, 41),
)
def test_noise_is_that_of_the_counters(seed, step, first, rows, components):
    which = torch.arange(first, first + rows)
    expected = normals(torch.tensor([seed]), Stream.NOISE, step, which, components, torch.float64)[0]
    double = kernels.normals(seed, step, first, rows, components, torch.float64)
    # Radii are at most √(66 ln 2); near radius 0 the root magnifies the rounding of the logarithm to its square root.
    assert (double - expected).abs().max() < 1e-7
    assert (double - expected).abs().median() < 1e-14
    single = kernels.normals(seed, step, first, rows, components, torch.float32)
    assert (single - expected).abs().max() < 1e-3
    assert (single - expected).abs().median() < 1e-6


def flow_of(ensemble, configuration, seeds, steps):
    columns = {
        name: [configuration[name] * (1 + 0.1 * (seed % 7)) for seed in seeds] for name in ("beta", "decay", "eta")
    }
    beta, lambda_rho = (torch.tensor(columns[name], dtype=torch.float64) for name in ("beta", "decay"))
    schedules = tuple(
        Schedule((Piece(0, steps // 2, eta), Piece(steps // 2, steps, eta / 2)), configuration["per_epoch"])
        for eta in columns["eta"]
    )
    hyper = Hyperparameters(torch.tensor(seeds), beta, lambda_rho, configuration["decay_ratio"] * lambda_rho, schedules)
    starts = torch.tensor([(0, 2, NEVER)[seed % 3] for seed in seeds])
    return Flow(ensemble, INTEGRATORS[configuration["integrator"]], hyper, configuration["batch"], starts)


def networks(shape, seeds, dtype, activation="tanh", truncated=False):
    """Networks and data that depend on nothing but each run's own seed."""
    _, N, n, d, q, extra = shape
    ensemble = networks_of(max(seeds) + 1, N, d, q + extra, q, activation, gamma=1.3, dtype=dtype)
    for name in ("U", "A", "W"):
        getattr(ensemble, name).data = getattr(ensemble, name)[seeds].contiguous()
    ensemble.gamma = ensemble.gamma[seeds] * (1 + 0.05 * torch.tensor(seeds, dtype=dtype))
    ensemble.truncation = Truncation(radius=1.0, c0=0.5) if truncated else None
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    X = torch.stack([torch.randn(n, d, generator=g, dtype=torch.float64) for g in generators])
    X /= X.norm(dim=-1, keepdim=True)
    Y = one_hot(torch.stack([torch.randint(q, (n,), generator=g) for g in generators]), q, dtype)
    return ensemble, X.to(dtype), Y


configurations = st.fixed_dictionaries(
    {
        "beta": st.sampled_from([math.inf, 40.0]),
        "decay": st.sampled_from([0.0, 0.05]),
        "decay_ratio": st.sampled_from([1.0, 3.0]),
        "eta": st.floats(0.001, 0.02),  # stable for a single particle of 17 features too
        "integrator": st.sampled_from(sorted(INTEGRATORS)),
        "batch": st.none() | st.integers(1, 60),
    }
)


def with_epochs(configuration, n):
    batch = configuration["batch"]
    return configuration | {"per_epoch": 1 if batch is None or batch >= n else -(-n // batch)}


@settings(max_examples=40)
@given(shape=shapes, activation=st.sampled_from(COMPILED), configuration=configurations, truncated=st.booleans())
def test_steps_are_those_of_the_reference(shape, activation, configuration, truncated):
    """Nine steps of float64, stopped twice on the way: parameters and the imbalance law beside them."""
    seeds = list(range(shape[0]))
    configuration = with_epochs(configuration, shape[2])

    def run(compiled):
        ensemble, X, Y = networks(shape, seeds, torch.float64, activation, truncated)
        flow = flow_of(ensemble, configuration, seeds, 9)
        with pytest.MonkeyPatch.context() as patch:
            if not compiled:
                patch.setattr(kernels, "supports", lambda *_: False)
            for first, last in pairwise((0, 1, 5, 9)):
                flow.advance(X, Y, first, last)
        return {**ensemble.state_dict(), "law": flow.law.D, "spread": flow.law.spread}

    expected, found = run(compiled=False), run(compiled=True)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-11)


@settings(max_examples=40)
@given(shape=shapes, dtype=dtypes, configuration=configurations, threads=st.integers(1, 4), data=st.data())
def test_companions_and_threads_change_not_one_bit(shape, dtype, configuration, threads, data):
    """Any grouping of runs that differ in seed, data, β, λ, γ, η and head start, on any number of threads."""
    configuration = with_epochs(configuration, shape[2])
    together = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=5, unique=True))

    def run(seeds, threads):
        ensemble, X, Y = networks(shape, seeds, dtype)
        torch.set_num_threads(threads)
        flow_of(ensemble, configuration, seeds, 6).advance(X, Y, 0, 6)
        return ensemble.state_dict()

    packed = run(together, threads)
    for index, seed in enumerate(together):
        alone = run([seed], 1)
        for name, value in alone.items():
            assert torch.equal(packed[name][index], value[0]), name


@settings(max_examples=20)
@given(shape=shapes, dtype=dtypes, activation=st.sampled_from(COMPILED), truncated=st.booleans(), data=st.data())
def test_krylov_spaces_are_those_of_the_reference_and_alone_the_same_to_the_bit(
    shape, dtype, activation, truncated, data
):
    together = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=5, unique=True))

    def span(seeds, threads, compiled=True):
        ensemble, X, Y = networks(shape, seeds, dtype, activation, truncated)
        head_moves, counts = (
            torch.tensor([seed % 2 == 0 for seed in seeds]),
            torch.tensor([1 + seed % 3 for seed in seeds]),
        )
        torch.set_num_threads(threads)
        with pytest.MonkeyPatch.context() as patch:
            if not compiled:
                patch.setattr(kernels, "supports", lambda *_: False)
            return GaussNewton(ensemble, X, head_moves).span(Y - 0.3, counts)

    packed, reference = span(together, data.draw(st.integers(1, 4))), span(together, 1, compiled=False)
    for index, seed in enumerate(together):
        for found, alone in zip(packed, span([seed], 1), strict=True):
            assert torch.equal(found[index, : 1 + seed % 3], alone[0])
    # The first vector, and its image, a sum over at most 130 particles of sums over at most 90 samples.
    for found, expected in zip(packed, reference, strict=True):
        error = (found[:, 0] - expected[:, 0]).abs().amax()
        assert error <= 1000 * EPSILON[dtype] * (1 + expected[:, 0].abs().amax())


@pytest.mark.parametrize("n", [30, 700])
def test_samples_block_by_block(n):
    """Of 30,000 particles the activations of 700 samples are too many to be held at once, those of 30 are not."""
    shape = (1, 30_000, n, 3, 2, 1)
    configuration = with_epochs(
        {"beta": math.inf, "decay": 0.1, "decay_ratio": 1.0, "eta": 0.1, "integrator": "exponential", "batch": None}, n
    )
    states = []
    for compiled in (True, False):
        ensemble, X, Y = networks(shape, [0], torch.float32)
        with pytest.MonkeyPatch.context() as patch:
            if not compiled:
                patch.setattr(kernels, "supports", lambda *_: False)
            flow_of(ensemble, configuration, [0], 2).advance(X, Y, 0, 2)
            r = torch.linspace(-1, 1, 2 * n).reshape(1, n, 2)
            sums = ensemble.first_layer(X).sample_sums(ensemble.A[..., :2].contiguous(), r)
            measured = vars(linearise(ensemble, X, Y, torch.ones(1)))
            operator = GaussNewton(ensemble, X, torch.ones(1, dtype=torch.bool))
            change, spanned = operator.apply(r), operator.span(r, torch.tensor([2]))[1]
        states.append({**ensemble.state_dict(), **{f"measured {name}": Z for name, Z in measured.items()}})
        states[-1] |= {
            "g_U": sums[0] / n,
            "Z": sums[1] / n,
            "mean": ensemble.features(X),
            "change": change / n,
            "spanned": spanned / n,
        }
    for name, value in states[1].items():
        # Sums of 700 or 30,000 numbers of order 1 in float32, times step sizes of 0.1.
        torch.testing.assert_close(states[0][name], value, rtol=1e-5, atol=1e-5)
