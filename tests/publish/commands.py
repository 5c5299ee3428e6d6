"""Commands of a user with an account of Weights & Biases, or with none."""

import os
import subprocess
import sys
from pathlib import Path

from tests.processes import PATIENCE

BIN = Path(sys.executable).parent
KEY = "0123456789abcdef" * 3


def make_environment(**more):
    """Return the environment of a user who never heard of W&B."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return plain | {"NETRC": "/nonexistent", "COLUMNS": "200"} | more


def start(folder, *command, **variables):
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [str(BIN / command[0]), *command[1:]], cwd=folder, env=make_environment(**variables), **streams
    )


def run(folder, *command, **variables):
    process = start(folder, *command, **variables)
    stdout, stderr = process.communicate(timeout=PATIENCE)
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
