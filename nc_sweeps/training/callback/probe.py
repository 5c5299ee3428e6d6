"""A probe that records what passes through the linear head of a module."""

from collections.abc import Callable
from types import TracebackType
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nc_sweeps.config.checks import suggest_choice
from nc_sweeps.errors import UserError


class Probe:
    """Records input and output of the head of a module while batches pass through it. Use it as a context.

    Args:
        module: a module with at least one ``torch.nn.Linear``.
        name: name of the head among ``module.named_modules()``; None: the last Linear.

    Attributes:
        head: the head.
        previous: the Linear whose unchanged output was the input of the head in the last forward pass; None: there is
            no such layer.

    Raises:
        UserError: the module has no such head, or the head has only one output.
    """

    def __init__(self, module: nn.Module, name: str | None = None) -> None:
        self._linear = {path: layer for path, layer in module.named_modules() if isinstance(layer, nn.Linear)}
        kind = type(module).__name__
        if not self._linear:
            raise UserError(f"{kind} has no torch.nn.Linear that could be its head")
        if name is not None and name not in self._linear:
            raise UserError(f"head={name}: no torch.nn.Linear of {kind}; {suggest_choice(name, list(self._linear))}")
        self.name = list(self._linear)[-1] if name is None else name
        self.head = self._linear[self.name]
        if self.head.out_features < 2:
            raise UserError(f"head={self.name}: has one output; a head has one for each of at least two classes")
        self.previous: nn.Linear | None = None
        self._handles: list[RemovableHandle] = []
        self._calls: list[tuple[Tensor, Tensor]] = []
        self._outputs: list[tuple[nn.Linear, Tensor, int]] = []

    def __enter__(self) -> "Probe":
        for layer in self._linear.values():
            self._handles.append(layer.register_forward_hook(self._record))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._handles:
            self._handles.pop().remove()
        self._calls, self._outputs = [], []

    def watch(self, run: Callable[[], Any]) -> tuple[Any, Float[Tensor, "b p"], Float[Tensor, "b q"]]:
        """Run the module once.

        Returns:
            The result of ``run``, and input and output of the head.

        Raises:
            UserError: the head was not called exactly once, or not with a matrix.
        """
        self._calls, self._outputs = [], []
        result = run()
        if len(self._calls) != 1:
            raise UserError(
                f"head={self.name}: called {len(self._calls)} times in one forward pass; the head is a layer that is "
                "called once"
            )
        H, F = self._calls[0]
        if H.ndim != 2:
            raise UserError(f"head={self.name}: its input has shape {tuple(H.shape)}; expected one row a sample")
        return result, H.detach(), F

    def _record(self, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        assert isinstance(layer, nn.Linear)
        if layer is self.head:
            H = inputs[0]
            self._calls.append((H, output))
            # The version of a tensor tells whether something, such as an activation in place, has changed it.
            sources = (source for source, Z, version in self._outputs if Z is H and version == H._version)
            self.previous = next(sources, None)
        elif layer.out_features == self.head.in_features:
            self._outputs.append((layer, output, output._version))
