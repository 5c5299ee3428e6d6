"""The checkpoint of a run: the state from which training goes on."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nc_sweeps.errors import StoreError
from nc_sweeps.store import files

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Checkpoint:
    """The step and the state from which a run goes on; the default is its beginning.

    Args:
        step: steps that are done.
        state: tensors of the network and of the noise, by name; None: the run has no state yet.
        seconds: seconds of training so far.
    """

    step: int = 0
    state: "dict[str, Tensor] | None" = None
    seconds: float = 0.0


def read_state(path: Path, signature: str) -> "tuple[int, dict[str, Tensor]]":
    """Read a checkpoint file.

    Args:
        path: path of the file.
        signature: signature of the run to which it has to belong.

    Returns:
        Step and state.

    Raises:
        StoreError: the file is damaged, or belongs to another run.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            step = int(metadata["step"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path}: damaged checkpoint ({error}); delete it to start the run over") from error
    if metadata.get("signature") != signature:
        raise StoreError(f"{path}: checkpoint of another run; delete it to start this one over")
    return step, state


def write_state(path: Path, signature: str, step: int, state: "dict[str, Tensor]") -> None:
    """Replace a checkpoint file; the arguments are as for :func:`read_state` and what it returns."""
    from safetensors.torch import save

    tensors = {name: value.contiguous() for name, value in state.items()}
    files.write(path, save(tensors, {"step": str(step), "signature": signature}))
