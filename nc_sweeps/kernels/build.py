"""Compile ``flow.cpp`` for this CPU, once, and keep the result in the user's cache.

The library is plain C++ with a C interface, so it depends on neither PyTorch's headers nor its version, and any GCC or
Clang builds it in seconds. Several processes may build it at once, since the finished file is moved into place.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache as once
from pathlib import Path

from nc_sweeps import cache

_SOURCE = Path(__file__).with_name("flow.cpp")
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC", "-Wno-psabi")
_COMPILERS = ("c++", "g++", "clang++")


class BuildError(Exception):
    """The library cannot be built here; the message says why."""


@once
def load_library() -> ctypes.CDLL | None:
    """Return the compiled library, or None where it cannot be built; then one line on stderr says why."""
    try:
        return ctypes.CDLL(str(_build()))
    except (BuildError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        print(
            f"nc-sweeps: no compiled step on this machine ({reason}): PyTorch's operations train, many times slower; "
            "install g++ or name a compiler in $CXX",
            file=sys.stderr,
        )
        return None


def _build() -> Path:
    """Return the path of the library for this source, compiler and CPU; compile it if it is not there."""
    compiler = _find_compiler()
    version = _run([compiler, "--version"])
    key = hashlib.sha256("\0".join([_SOURCE.read_text(), *_FLAGS, version, _describe_cpu()]).encode()).hexdigest()[:16]
    path = cache.find_folder() / f"flow-{key}.so"
    if path.exists():
        return path
    print("nc-sweeps: compiling the step for this CPU, once …", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        finished = Path(scratch, path.name)
        _run([compiler, *_FLAGS, "-o", str(finished), str(_SOURCE)])
        os.replace(finished, path)
    return path


def _find_compiler() -> str:
    chosen = os.environ.get("CXX")
    for name in (chosen,) if chosen else _COMPILERS:
        if found := shutil.which(name):
            return found
    raise BuildError(f"no {chosen or ' or '.join(_COMPILERS)}")


def _run(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout
    except subprocess.CalledProcessError as error:
        raise BuildError(f"{command[0]}: {error.stderr.strip() or error}") from error
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{command[0]} did not finish") from error


def _describe_cpu() -> str:
    """Return all that ``-march=native`` depends on: in a cluster one home folder may serve several kinds of CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
