"""The compiled passes and steps as functions of tensors."""

import ctypes
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nc_sweeps.kernels.build import load_library

#: Activations that ``flow.cpp`` knows, by its numbers for them.
_ACTIVATIONS = {"tanh": 0, "sigmoid": 1, "relu": 2, "softplus": 3}
_TYPES = {torch.float32: "float", torch.float64: "double"}


class _Networks(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("runs", "n", "d", "N", "columns")),
        ("X", ctypes.c_void_p),
        ("U", ctypes.c_void_p),
        ("X_stride", ctypes.c_int64),
        ("activation", ctypes.c_int32),
        ("threads", ctypes.c_int32),
    )


class _Flow(ctypes.Structure):
    _fields_ = (
        ("networks", _Networks),
        *((name, ctypes.c_int64) for name in ("p", "Y_stride")),
        *((name, ctypes.c_void_p) for name in ("Y", "U", "A", "W", "gamma", "particles", "head", "seeds")),
        *((name, ctypes.c_double) for name in ("radius", "c0")),
        *((name, ctypes.c_int64) for name in ("first", "last")),
        ("order", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("order_stride", "batch", "position")),
        ("heads", ctypes.c_void_p),
    )


def supports(activation: str, like: Tensor) -> bool:
    """Return whether the compiled functions take tensors of this kind with this activation.

    Under autocast they do not: PyTorch's operations know how to mix precisions.
    """
    fits = like.device.type == "cpu" and like.dtype in _TYPES and activation in _ACTIVATIONS
    return fits and not torch.is_autocast_enabled("cpu") and load_library() is not None


def particle_sums(
    U: Float[Tensor, "run N d"], X: Float[Tensor, "run n d"], Z: Float[Tensor, "run N k"], activation: str
) -> Float[Tensor, "run n k"]:
    r"""Return :math:`\sigma(X U^\top) Z`: sums over particles."""
    U, Z = U.contiguous(), Z.contiguous()
    out = X.new_empty(*X.shape[:2], Z.shape[2])
    networks = _networks(U, X := _rows(X), Z.shape[2], activation)
    _call("particle_sums", ctypes.byref(networks), Z, out, like=out)
    return out


def particle_sums_derivative(
    U: Float[Tensor, "run N d"],
    X: Float[Tensor, "run n d"],
    Z: Float[Tensor, "run N k"],
    dU: Float[Tensor, "run N d"],
    dZ: Float[Tensor, "run N k"],
    activation: str,
) -> Float[Tensor, "run n k"]:
    r"""Return the derivative of :func:`particle_sums` where U and Z move by dU and dZ,

    .. math::
        \sigma(X U^\top)\, dZ + (\sigma'(X U^\top) \circ X dU^\top)\, Z.
    """
    U, Z, dU, dZ = (values.contiguous() for values in (U, Z, dU, dZ))
    out = X.new_empty(*X.shape[:2], Z.shape[2])
    networks = _networks(U, X := _rows(X), Z.shape[2], activation)
    _call("particle_sums_derivative", ctypes.byref(networks), Z, dU, dZ, out, like=out)
    return out


def sample_sums(
    U: Float[Tensor, "run N d"],
    X: Float[Tensor, "run n d"],
    B: Float[Tensor, "run N q"],
    r: Float[Tensor, "run n q"],
    activation: str,
) -> tuple[Float[Tensor, "run N d"], Float[Tensor, "run N q"]]:
    r"""Return :math:`((B r^\top) \circ \sigma'(U X^\top)) X` and :math:`\sigma(U X^\top) r`: sums over samples."""
    U, B, r = U.contiguous(), B.contiguous(), r.contiguous()
    g_U, Z = torch.empty_like(U), torch.empty_like(B)
    networks = _networks(U, X := _rows(X), B.shape[2], activation)
    _call("sample_sums", ctypes.byref(networks), B, r, g_U, Z, like=U)
    return g_U, Z


def advance(
    U: Float[Tensor, "run N d"],
    A: Float[Tensor, "run N p"],
    W: Float[Tensor, "run p q"],
    X: Float[Tensor, "run n d"],
    Y: Float[Tensor, "run n q"],
    *,
    activation: str,
    gamma: Float[Tensor, "run"],
    truncation: tuple[float, float],
    particle_coefficients: Float[Tensor, "run 3"],
    head_coefficients: Float[Tensor, "run 2"],
    seeds: Int[Tensor, "run"],
    first: int,
    last: int,
    order: Int[Tensor, "run samples"] | None = None,
    batch: int = 0,
    position: int = 0,
    heads: Float[Tensor, "run steps p q"] | None = None,
) -> None:
    r"""Take steps ``first + 1`` … ``last`` of the flow, in place.

    Args:
        U, A, W: layers, contiguous; overwritten.
        X, Y: training set of every run.
        activation: name of σ.
        gamma: γ.
        truncation: R and C₀; R = ∞: none.
        particle_coefficients: :math:`\delta, c, s` of a step of the particles, float64.
        head_coefficients: :math:`\delta, c` of a step of the head, float64.
        seeds: seeds of the noise, int64.
        first, last: steps.
        order: the samples of every run in the order in which mini-batches take them, epoch after epoch, from the
            epoch of step ``first + 1`` on; None: every step takes all samples.
        batch: samples a step; the last step of an epoch takes those that are left.
        position: samples that the first epoch has taken already.
        heads: overwritten by W after every step.

    Raises:
        MemoryError: there is no room for the activations and sums of a step. Nothing has moved.
    """
    X, Y = _rows(X), _rows(Y)
    gamma, particles, head = (z.double().contiguous() for z in (gamma, particle_coefficients, head_coefficients))
    kept = (Y, U, A, W, gamma, particles, head, seeds.contiguous())
    flow = _Flow(
        _networks(U, X, W.shape[2], activation), A.shape[2], Y.stride(0), *(z.data_ptr() for z in kept), *truncation,
        first, last, None if order is None else order.data_ptr(), 0 if order is None else order.stride(0), batch,
        position, None if heads is None else heads.data_ptr(),
    )  # fmt: skip
    _call("advance", ctypes.byref(flow), like=U)


def linearise(
    U: Float[Tensor, "run N d"],
    A: Float[Tensor, "run N p"],
    W: Float[Tensor, "run p q"],
    X: Float[Tensor, "run n d"],
    Y: Float[Tensor, "run n q"],
    *,
    activation: str,
    gamma: Float[Tensor, "run"],
    truncation: tuple[float, float],
    decay: Float[Tensor, "run"],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""Return H, :math:`g_A`, :math:`g_U` and :math:`\sigma(XU^\top)(g_A + \lambda A)/N`.

    All arguments but one are those of :func:`advance`.

    Args:
        decay: :math:`\lambda`.
    """
    X, Y, decay = _rows(X), _rows(Y), decay.double().contiguous()
    gamma = gamma.double().contiguous()
    kept = (Y, U, A, W, gamma)
    flow = _Flow(
        _networks(U, X, W.shape[2], activation), A.shape[2], Y.stride(0), *(z.data_ptr() for z in kept),
        None, None, None, *truncation,
    )  # fmt: skip
    H = X.new_empty(*X.shape[:2], A.shape[2])
    out = (H, torch.empty_like(A), torch.empty_like(U), torch.empty_like(H))
    _call("linearise", ctypes.byref(flow), decay, *out, like=U)
    return out


def span_krylov(
    U: Float[Tensor, "run N d"],
    A: Float[Tensor, "run N p"],
    W: Float[Tensor, "run p q"],
    X: Float[Tensor, "run n d"],
    *,
    activation: str,
    gamma: Float[Tensor, "run"],
    truncation: tuple[float, float],
    head_moves: Bool[Tensor, "run"],
    start: Float[Tensor, "run n q"],
    counts: Int[Tensor, "run"],
) -> tuple[Float[Tensor, "run most n q"], Float[Tensor, "run most n q"]]:
    """Return a basis of the Krylov space of the Gauss–Newton operator, and what the operator makes of it.

    Args:
        U, A, W, X, activation, gamma, truncation: as for :func:`advance`.
        head_moves: whether the head is trained.
        start: vectors from which the spaces begin.
        counts: dimension of each run's space; a run of less than the most has zeros beyond.
    """
    X, gamma = _rows(X), gamma.double().contiguous()
    layers = (U.contiguous(), A.contiguous(), W.contiguous())
    basis = start.new_zeros(len(U), most := int(counts.max()), *start.shape[1:])
    flow = _Flow(
        _networks(layers[0], X, W.shape[2], activation), A.shape[2], 0, None, *(z.data_ptr() for z in (*layers, gamma)),
        None, None, None, *truncation,
    )  # fmt: skip
    out = (basis, torch.zeros_like(basis), torch.empty_like(layers[0]))
    of_runs = (head_moves.long().contiguous(), counts.contiguous())
    _call("span", ctypes.byref(flow), *of_runs, ctypes.c_int64(most), start.contiguous(), *out, like=U)
    return out[:2]


def step_bytes(n: int, d: int, N: int, p: int, q: int, dtype: torch.dtype) -> int:
    """Return the bytes that a step of one network, or a measurement of it, takes besides parameters and data.

    Each thread works on one network at a time. The answer is 0 where nothing is compiled.
    """
    return _ask(f"step_bytes_{_TYPES[dtype]}", n, d, N, p, q)


def whole_bytes() -> int:
    """Return how many bytes the activations of a network may have for a measurement to form them once and not twice.

    The answer is 0 where nothing is compiled.
    """
    return _ask("whole_bytes")


def normals(
    seed: int, step: int, first: int, rows: int, components: int, dtype: torch.dtype
) -> Float[Tensor, "rows components"]:
    """Return the noise of one network at a step, for some particles from ``first`` on.

    These are the numbers of :func:`nc_sweeps.counters.normals`, to rounding.
    """
    blocks = -(-components // 4)
    out = torch.empty(4 * (rows * blocks + 16), dtype=dtype)  # the kernel writes whole vectors of counters
    _call("normals", *(ctypes.c_int64(value) for value in (seed, step, first, rows, blocks)), out, like=out)
    return out[: rows * blocks * 4].reshape(rows, -1)[:, :components]


def _rows(X: Tensor) -> Tensor:
    """Return inputs in which the samples of a run lie one after another; runs that share them may stay expanded."""
    return X if X[0].is_contiguous() else X.contiguous()


def _networks(U: Tensor, X: Tensor, columns: int, activation: str) -> _Networks:
    runs, n, d = X.shape
    return _Networks(
        runs=runs, n=n, d=d, N=U.shape[1], columns=columns, X=X.data_ptr(), U=U.data_ptr(), X_stride=X.stride(0),
        activation=_ACTIVATIONS[activation], threads=torch.get_num_threads(),
    )  # fmt: skip


def _ask(name: str, *sizes: int) -> int:
    """Return a number that the library computes from sizes, or 0 where nothing is compiled."""
    loaded = load_library()
    if loaded is None:
        return 0
    function = loaded[f"nc_{name}"]
    function.restype = ctypes.c_int64
    return int(function(*map(ctypes.c_int64, sizes)))


def _call(name: str, *arguments: Any, like: Tensor) -> None:
    """Call a function in the precision of a tensor."""
    loaded = load_library()
    assert loaded is not None
    function = loaded[f"nc_{name}_{_TYPES[like.dtype]}"]
    pointers = (ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else a for a in arguments)
    if function(*pointers) == 1:
        raise MemoryError
