"""The keys of a configuration with their values and meanings, for ``nc-train --help``."""

import dataclasses
import textwrap
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nc_sweeps.config.keys import Key, list_keys
from nc_sweeps.config.schema import CHOICES, RunConfig

#: Columns of a key with its value; what is longer has a line of its own.
_KEY_COLUMNS = 34


def describe_keys(cfg: DictConfig, columns: int) -> str:
    """Return the keys of a composed config in the order of the schema, group by group.

    Args:
        cfg: composed by Hydra, unchecked.
        columns: width of the text.
    """
    lines, group, tree = list[str](), "", OmegaConf.to_container(cfg)
    for key in _list_keys(cfg):
        if key.name.rpartition(".")[0] != group:
            group = key.name.rpartition(".")[0]
            lines.append("")
        shown = f"{key.name}={_format(tree, key.name)}"
        text = textwrap.wrap(key.text, max(20, columns - _KEY_COLUMNS - 1))
        first = [f"{shown:<{_KEY_COLUMNS}} {text[0]}"] if len(shown) <= _KEY_COLUMNS else [shown]
        lines += [*first, *(f"{'':<{_KEY_COLUMNS}} {line}" for line in text[len(shown) <= _KEY_COLUMNS :])]
    return "\n".join(lines)


def _list_keys(cfg: DictConfig) -> Iterator[Key]:
    """Yield the keys of what is chosen, in the order of the schema."""
    keys = list(list_keys(RunConfig))
    for group, schemas in CHOICES.items():
        schema = schemas.get(str(OmegaConf.select(cfg, f"{group}.name")))
        keys += list_keys(schema, f"{group}.") if schema else ()
    order = [item.name for item in dataclasses.fields(RunConfig)]
    yield from sorted(keys, key=lambda key: order.index(key.name.partition(".")[0]))


def _format(tree: Any, name: str) -> str:
    """Return the value of a key as one would type it, without quotes."""
    for part in name.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    if isinstance(tree, list):
        return f"[{','.join(str(entry) for entry in tree)}]"
    return "null" if tree is None else str(tree).lower() if isinstance(tree, bool) else str(tree)
