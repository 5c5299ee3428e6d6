"""Prints the machine, tables of 100 columns, and numbers beside their targets."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

console = Console(width=100, highlight=False)

_DISTRIBUTIONS = ("torch", "jax", "pytorch-lightning", "hydra-core", "hydra-joblib-launcher", "numpy")


def print_header(quick: bool) -> None:
    """Print date, machine and versions: without them a number of a benchmark means nothing."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _DISTRIBUTIONS)
    loads = " ".join(f"{load:.1f}" for load in os.getloadavg())
    console.print(f"[bold]{datetime.now(UTC):%Y-%m-%d %H:%M} UTC[/], commit {_find_commit()}")
    console.print(
        f"{_describe_cpu()}; {os.cpu_count()} cores, {torch.get_num_threads()} threads of torch; load {loads}"
    )
    console.print(f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, {versions}")
    if quick:
        console.print("[bold]--quick: few repeats and short runs; a check of the programs, not a result[/]")


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "", left: Sequence[int] = (0,)
) -> None:
    """Print a table.

    Args:
        title: what was measured, in which unit.
        columns, rows: headings and cells.
        caption: how it was measured.
        left: columns of text, which are aligned to the left.
    """
    shown = Table(title=title, caption=caption or None, caption_justify="left", title_justify="left")
    for index, column in enumerate(columns):
        shown.add_column(column, justify="left" if index in left else "right", no_wrap=index in left)
    for row in rows:
        shown.add_row(*row)
    console.print()
    console.print(shown)


def print_target(text: str, found: float, least: float | None = None, most: float | None = None) -> None:
    """Print a number beside the bound that the project has set for it."""
    kept = (least is None or found >= least) and (most is None or found <= most)
    bounds = [f"{sign} {bound:g}" for sign, bound in (("≥", least), ("≤", most)) if bound is not None]
    console.print(f"{text}: [bold]{found:.3g}[/] (target {', '.join(bounds)}) {'✓' if kept else '✗ MISSED'}")


def _describe_cpu() -> str:
    """Return the model of the CPU with its family and model number, since its name alone says little."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "model name" not in facts:
        return platform.processor() or platform.machine()
    widest = next((name for name in ("avx512f", "avx2", "avx") if name in facts.get("flags", "").split()), "no AVX")
    return f"{facts['model name']} (family {facts['cpu family']}, model {facts['model']}, {widest})"


def _find_commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"
