"""Compiled code for CPUs: the passes through the first layer and whole steps of the flow.

The source is ``flow.cpp``. :mod:`~nc_sweeps.kernels.build` compiles it at first use, and
:mod:`~nc_sweeps.kernels.library` offers it as functions of tensors. Nothing depends on it: without a compiler, on GPUs
and for activations that the kernels do not know, PyTorch's operations take the same steps, and tests compare the two.
"""

from nc_sweeps.kernels.library import (
    advance,
    linearise,
    normals,
    particle_sums,
    particle_sums_derivative,
    sample_sums,
    span_krylov,
    step_bytes,
    supports,
    whole_bytes,
)

__all__ = [
    "advance",
    "linearise",
    "normals",
    "particle_sums",
    "particle_sums_derivative",
    "sample_sums",
    "span_krylov",
    "step_bytes",
    "supports",
    "whole_bytes",
]
