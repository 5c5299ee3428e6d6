"""Compile ``flow.cpp`` for this CPU, once, and keep the result in the user's cache.

The library is plain C++ with a C interface, so it depends on neither PyTorch's headers nor its version, and any GCC or
Clang builds it in seconds. Several processes may build it at once, since the finished file is moved into place.
"""

import ctypes
import hashlib
import os
import platform
import shlex
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
    """The library cannot be built here; the message says why, and what to do."""


@once
def load_library() -> ctypes.CDLL | None:
    """Return the compiled library, or None where it cannot be built; then one line on stderr says why."""
    try:
        return _load(_build())
    except BuildError as error:
        without = "nc-sweeps: no compiled step on this machine, PyTorch's operations train, many times slower"
        print(f"{without}: {error}", file=sys.stderr)
        return None


def _load(path: Path) -> ctypes.CDLL:
    """Load the library; from a copy in the folder of temporary files, where its own folder holds no programs."""
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        try:
            with tempfile.TemporaryDirectory(prefix="nc-sweeps-") as scratch:
                return ctypes.CDLL(shutil.copy(path, scratch))
        except OSError as error:
            raise BuildError(f"{error}; set TMPDIR to a folder that may hold programs") from error


def _build() -> Path:
    """Return the path of the library for this source, compiler and CPU; compile it if it is not there."""
    compiler = _find_compiler()
    version = _run([*compiler, "--version"])
    content = "\0".join([_SOURCE.read_text("utf-8"), *compiler[1:], *_FLAGS, version, _describe_cpu()])
    path = cache.find_folder() / f"flow-{hashlib.sha256(content.encode()).hexdigest()[:16]}.so"
    if path.exists():
        return path
    print("nc-sweeps: compiling the step for this CPU, once …", file=sys.stderr)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            finished = Path(scratch, path.name)
            _run([*compiler, *_FLAGS, "-o", str(finished), str(_SOURCE)])
            if not finished.exists():
                raise BuildError(f"{compiler[0]} makes no library; name another compiler in $CXX")
            os.replace(finished, path)
    except OSError as error:
        raise BuildError(f"{path}: {error.strerror}; set XDG_CACHE_HOME to a folder that can be written") from error
    return path


def _find_compiler() -> list[str]:
    """Return the command of the compiler, with the options that the user gives it in ``$CXX``."""
    chosen = shlex.split(os.environ.get("CXX", ""))
    for name in chosen[:1] or _COMPILERS:
        if found := shutil.which(name):
            return [found, *chosen[1:]]
    raise BuildError(f"no {' or '.join(chosen[:1] or _COMPILERS)}; install g++ or name a compiler in $CXX")


def _run(command: list[str]) -> str:
    """Run a compiler; return what it prints."""
    try:
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", check=True, timeout=600
        ).stdout
    except subprocess.CalledProcessError as error:
        first = (error.stderr.strip() or str(error)).splitlines()[0]
        raise BuildError(f"{command[0]}: {first}; name another compiler in $CXX") from error
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{command[0]} did not finish; name another compiler in $CXX") from error
    except OSError as error:
        raise BuildError(f"{command[0]}: {error.strerror}; name another compiler in $CXX") from error


def _describe_cpu() -> str:
    """Return all that ``-march=native`` depends on: in a cluster one home folder may serve several kinds of CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
