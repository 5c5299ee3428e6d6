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
        is_named: whether the head was named.
        rivals: names of the layers that might be meant instead: in the last forward pass they took the same features or
            were called after the head.

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
        self.is_named = name is not None
        self.name = list(self._linear)[-1] if name is None else name
        self.head = self._linear[self.name]
        self.rivals: list[str] = []
        if self.head.out_features < 2:
            raise UserError(
                f"head={self.name}: has one output; a head has one for each of at least two classes{self.hint}"
            )
        self.previous: nn.Linear | None = None
        self._handles: list[RemovableHandle] = []
        self._calls: list[tuple[Tensor, Tensor]] = []
        self._outputs: list[tuple[nn.Linear, Tensor, int]] = []
        self._inputs: list[tuple[nn.Linear, Tensor]] = []

    def __enter__(self) -> "Probe":
        for layer in self._linear.values():
            self._handles.append(layer.register_forward_hook(self._record))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._handles:
            self._handles.pop().remove()
        self._calls, self._outputs, self._inputs = [], [], []

    @property
    def hint(self) -> str:
        """End of a message about a head that nobody has named: how to name one, and which layers there are."""
        others = [path for path, layer in self._linear.items() if layer is not self.head and layer.out_features > 1]
        if self.is_named or not others:
            return ""
        return f". It is the last Linear; name the one that is meant as head=…: {', '.join(map(repr, others[-3:]))}"

    def watch(self, run: Callable[[], Any]) -> tuple[Any, Float[Tensor, "b p"], Float[Tensor, "b q"]]:
        """Run the module once.

        Returns:
            The result of ``run``, and input and output of the head.

        Raises:
            UserError: the head was not called exactly once, or not with a matrix.
        """
        self._calls, self._outputs, self._inputs, self.rivals = [], [], [], []
        result = run()
        if len(self._calls) != 1:
            raise UserError(
                f"head={self.name}: called {len(self._calls)} times in one forward pass; the head is a layer that is "
                f"called once{self.hint}"
            )
        H, F = self._calls[0]
        if H.ndim != 2:
            raise UserError(
                f"head={self.name}: its input has shape {tuple(H.shape)}; expected one row a sample{self.hint}"
            )
        return result, H.detach(), F

    def share_previous(self, broadcast: Callable[[str], str]) -> None:
        """Take over what process 0 found before the head: a process that had no samples has found nothing.

        Args:
            broadcast: returns the text that process 0 gives to it.
        """
        path = broadcast("" if self.previous is None else self._find_path(self.previous))
        self.previous = self._linear.get(path)

    def check_labels(self, labels: Tensor) -> None:
        """Raise an error if there is a class for which the head has no output.

        Raises:
            ValueError: there is.
        """
        q = self.head.out_features
        if labels.numel() and not labels.is_floating_point() and not 0 <= labels.min() <= labels.max() < q:
            raise ValueError(
                f"labels: expected 0 to {q - 1}, found {int(labels.min())} to {int(labels.max())}: "
                f"head={self.name} has {q} outputs{self.hint}"
            )

    def _record(self, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        assert isinstance(layer, nn.Linear)
        if layer is self.head:
            H = inputs[0]
            self._calls.append((H, output))
            # The version of a tensor tells whether something, such as an activation in place, has changed it.
            sources = (source for source, Z, version in self._outputs if Z is H and version == H._version)
            self.previous = next(sources, None)
            self.rivals += [self._find_path(other) for other, Z in self._inputs if Z is H]
            return
        if layer.out_features == self.head.in_features:
            self._outputs.append((layer, output, output._version))
        if layer.out_features > 1 and output.ndim == 2:  # it might be a head
            if self._calls:
                self.rivals.append(self._find_path(layer))
            elif layer.in_features == self.head.in_features:
                self._inputs.append((layer, inputs[0]))

    def _find_path(self, layer: nn.Linear) -> str:
        paths: list[str] = [path for path, other in self._linear.items() if other is layer]
        return paths[0]
