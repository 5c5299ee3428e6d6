"""Contexts in which a measurement finds a module as its layers are, and leaves no trace in it."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn


@contextmanager
def run_eagerly() -> Iterator[None]:
    """Run compiled modules as they were before, until the context ends: compiled ones do not call new hooks."""
    with ExitStack() as context:
        if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):  # from torch 2.6 on
            context.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextmanager
def restore_after(module: nn.Module) -> Iterator[None]:
    """Restore the modes and buffers of a module when the context ends."""
    modes = {part: part.training for part in module.modules()}
    buffers = [
        (part, name, buffer, buffer.clone())
        for part in module.modules()
        for name, buffer in part.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
        with torch.no_grad():
            for part, name, buffer, value in buffers:
                setattr(part, name, buffer.copy_(value))
