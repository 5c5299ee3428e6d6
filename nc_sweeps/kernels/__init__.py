"""Compiled code for processors: the passes through the first layer and whole steps of the flow.

``flow.cpp`` holds it, :mod:`~nc_sweeps.kernels.build` compiles it at first use, and
:mod:`~nc_sweeps.kernels.library` offers it as functions of tensors. Nothing needs it: where there is no compiler, on
GPUs and for what the kernels do not know, PyTorch's operations take over, and tests hold the two to each other.
"""

from nc_sweeps.kernels.library import advance, linearise, normals, particle_sums, sample_sums, step_bytes, supports

__all__ = ["advance", "linearise", "normals", "particle_sums", "sample_sums", "step_bytes", "supports"]
