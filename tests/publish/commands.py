"""Commands as a user types them who has an account of Weights & Biases, or none."""

import os
import subprocess
import sys
from pathlib import Path

from tests.processes import PATIENCE

BIN = Path(sys.executable).parent
KEY = "0123456789abcdef" * 3


def environment(**more):
    """Of a user who never heard of W&B."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return plain | {"NETRC": "/nonexistent", "COLUMNS": "200"} | more


def start(folder, *command, **variables):
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([str(BIN / command[0]), *command[1:]], cwd=folder, env=environment(**variables), **streams)


def run(folder, *command, **variables):
    process = start(folder, *command, **variables)
    said, told = process.communicate(timeout=PATIENCE)
    return subprocess.CompletedProcess(command, process.returncode, said, told)
