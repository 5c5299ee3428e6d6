"""The private names of Hydra and OmegaConf that this project uses. No other module uses any.

What they are relied on for:

==============================================  =======================================================================
``Container._get_node(key)``                    the node of a value, whether or not it refers to others
``ValueNode._value()``                          the value of a node as it was written, references unresolved
``ValueNode._set_value(value)``                 converts a value to the type of the node, or raises ValidationError
``config_loader_impl.get_overrides_dirname``    what Hydra 1.3 writes to ``hydra.job.override_dirname``; Hydra 1.4 has a
                                                resolver there, and no such function
``BasicLauncher``, ``BasicSweeper``             Hydra's own plugins, of which ours are made
==============================================  =======================================================================

The first three only save time: :func:`are_nodes_reliable` tells whether they do what is said here, and if they do not,
:class:`nc_sweeps.config.variations.Variations` uses the public functions of OmegaConf. The fourth need not be right
either: the launchers compare what they compose with what Hydra composes.
"""

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, ListConfig, Node, OmegaConf, ValueNode

if TYPE_CHECKING:
    from hydra._internal.core_plugins.basic_launcher import BasicLauncher
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.types import Override

__all__ = [
    "BasicLauncher",
    "BasicSweeper",
    "are_nodes_reliable",
    "find_node",
    "read_value",
    "write_override_dirname",
    "write_value",
]

_PLUGINS = {
    "BasicLauncher": "hydra._internal.core_plugins.basic_launcher",
    "BasicSweeper": "hydra._internal.core_plugins.basic_sweeper",
}


def __getattr__(name: str) -> Any:
    # Processes that train import this module, and have no use for Hydra.
    if name in _PLUGINS:
        return getattr(import_module(_PLUGINS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def find_node(container: DictConfig | ListConfig, key: str | int) -> Node | None:
    """Return the node of a key in a container; None if there is none."""
    return container._get_node(key)  # type: ignore[arg-type, return-value]


def read_value(node: ValueNode) -> Any:
    """Return the value of a node as it was written."""
    return node._value()


def write_value(node: ValueNode, value: Any) -> None:
    """Write a value to a node.

    Raises:
        ValidationError: the value does not have the type of the node.
    """
    node._set_value(value)


@cache
def are_nodes_reliable() -> bool:
    """Return whether the names of OmegaConf exist and do what is said here."""
    tree = OmegaConf.create({"number": 1, "reference": "${number}", "list": [1]})
    try:
        number, reference, entry = find_node(tree, "number"), find_node(tree, "reference"), find_node(tree.list, 0)
        write_value(number, 2)  # type: ignore[arg-type]
        found = read_value(reference), read_value(entry), tree.reference  # type: ignore[arg-type]
        return found == ("${number}", 1, 2)
    except Exception:
        return False


def write_override_dirname(config: DictConfig, overrides: "Sequence[Override]") -> None:
    """Write ``hydra.job.override_dirname`` of a job with these overrides, where Hydra composes it as text."""
    from hydra._internal import config_loader_impl

    compose = getattr(config_loader_impl, "get_overrides_dirname", None)
    if compose is not None:
        style = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = compose(
            overrides=overrides, kv_sep=style.kv_sep, item_sep=style.item_sep, exclude_keys=style.exclude_keys
        )
