"""Section ``startup``: seconds from a command to its end, when there is hardly anything to do.

Training takes one step and measures before and after it; the time to the first step is a little less than shown.
The commands are run in turns, each in a fresh folder.
"""

import sys
import tempfile
from statistics import median

from benchmarks.command import NC_TRAIN, time_command
from benchmarks.neighbours import wait_for_quiet
from benchmarks.report import print_table

_SWEEP = ["width.particles=64,256,1024,4096", "separation.margin=-0.1,0.05,0.2,0.35", "seed=range(4)"]

#: Each command and its exit code.
COMMANDS: dict[str, tuple[list[str], int]] = {
    "nc-train, one run of one step": ([NC_TRAIN, "dynamics.horizon=1"], 0),
    "nc-train -m, 64 runs of one step": (
        [NC_TRAIN, "-m", "hydra/launcher=packed", "name=startup", *_SWEEP, "dynamics.horizon=1"],
        0,
    ),
    "nc-train --help": ([NC_TRAIN, "--help"], 0),
    "nc-train with a wrong value": ([NC_TRAIN, "dynamics.beta=-1"], 1),
    "python -c 'import torch'": ([sys.executable, "-c", "import torch"], 0),
    "python -c 'import pytorch_lightning'": ([sys.executable, "-c", "import pytorch_lightning"], 0),
}
_UNIT = "python -c 'import pytorch_lightning'"


def main(quick: bool) -> None:
    """Measure all commands and print the table."""
    repeats = 1 if quick else 5
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    # The first turn fills the file cache and does not count.
    for turn in range(repeats + 1):
        for name, (command, code) in COMMANDS.items():
            wait_for_quiet()
            with tempfile.TemporaryDirectory() as directory:
                seconds = time_command(command, directory, code).seconds
            if turn:
                found[name].append(seconds)
    unit = median(found[_UNIT])
    print_table(
        "Seconds from command to end",
        ["command", "median", "fastest", "slowest", "of Lightning's import"],
        [
            [name, f"{median(t):.2f}", f"{min(t):.2f}", f"{max(t):.2f}", f"{median(t) / unit:.2f}"]
            for name, t in found.items()
        ],
        f"{repeats} turns after one that does not count.",
    )
