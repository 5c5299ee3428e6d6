"""The end of a command in an error: one line on stderr and exit code 1.

The line tells the user what to mend, or, where the error is a fault of this program, where the log is. With
``HYDRA_FULL_ERROR=1`` in the environment every error shows its traceback. Hydra is imported when an error occurs: not
every command uses it.
"""

import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path

from nc_sweeps import cache
from nc_sweeps.errors import UserError, explain_error, is_out_of_memory

_FULL_ERROR = "HYDRA_FULL_ERROR"

#: Libraries that read what the user wrote. Where one of them refuses a value, the user can mend it; those that search
#: have exceptions of their own for that.
_READERS = {"antlr4", "hydra", "hydra_plugins", "omegaconf", "optuna", "sqlalchemy", "yaml"}
_SEARCHERS = {"optuna", "sqlalchemy"}
_OURS = ("nc_sweeps", "nc_launch", "hydra_plugins.nc_sweeps_launcher")


class PassThroughHydra(BaseException):
    """Carries an error, its ``__cause__``, through Hydra, which prints or swallows every ``Exception`` on its way."""


def describe_error(error: Exception) -> str:
    """Return the line for an error that the user can mend."""
    from nc_sweeps.config import explain_config_error

    if (isinstance(error, OSError) and error.filename) or is_out_of_memory(error):
        return explain_error(error)
    return explain_config_error(error, arguments=sys.argv[1:])


def _describe_version() -> str:
    return f"nc-sweeps {metadata.version('nc-sweeps')}"


def show_version(is_asked: bool = True) -> None:
    """Print the version and end the command, where that is asked for."""
    if is_asked:
        print(_describe_version())
        raise SystemExit(0)


@contextmanager
def show_errors_in_one_line(command: str, describe: Callable[[Exception], str] = describe_error) -> Iterator[None]:
    """Turn every error into one line.

    Args:
        command: name with which the line begins.
        describe: returns the rest of it, for an error that the user can mend.

    Raises:
        SystemExit: with the line.
    """
    wants_traceback = os.environ.get(_FULL_ERROR) == "1"
    try:
        yield
    except BrokenPipeError:
        # Who read the output has left; the interpreter must not try to write the rest of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except (Exception, KeyboardInterrupt, PassThroughHydra) as raised:
        error = raised.__cause__ if isinstance(raised, PassThroughHydra) else raised
        if isinstance(error, Exception) and wants_traceback:
            raise error from error.__cause__
        raise SystemExit(f"{command}: {_describe(error, command, describe)}") from None


def _describe(error: BaseException | None, command: str, describe: Callable[[Exception], str]) -> str:
    # A library may put an error of its own in the place of a Ctrl-C.
    if not isinstance(error, Exception) or isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
        return "interrupted"
    try:
        if can_be_mended(error):
            return describe(error)
    except Exception as second:
        error = second
    return _report_fault(command, error)


def _report_fault(command: str, error: Exception) -> str:
    """Return the line for an error that is a fault of this program, and write a log of it."""
    text = "".join(traceback.format_exception(error))
    about = f"{_describe_version()}, Python {platform.python_version()}, {platform.platform()}"
    log = _write_log(command, f"{about}\n{' '.join(sys.argv)}\n\n{text}")
    # Where nothing can be written, the place of the error stands in for the log.
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"the log is {log}" if log else f"{frame.filename}, line {frame.lineno}"
    return (
        f"a fault of nc-sweeps, not yours ({explain_error(error)}); {where}; "
        f"please report it, with {'that file' if log else 'this line'} and what you typed"
    )


def _write_log(command: str, text: str) -> Path | None:
    """Write a file in one piece, in the cache or among the temporary files; return None if neither can be written."""
    name = f"{command}-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.log"
    for find_folder in (cache.find_lasting_folder, lambda: Path(tempfile.gettempdir())):
        with suppress(OSError, RuntimeError):
            folder = find_folder()
            handle, part = tempfile.mkstemp(dir=folder)  # readable by the user alone
            with open(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(part, folder / name)
            return folder / name
    return None


@contextmanager
def let_hydra_raise_errors() -> Iterator[None]:
    """Have Hydra raise errors instead of printing them."""
    previous = os.environ.get(_FULL_ERROR)
    os.environ[_FULL_ERROR] = "1"
    try:
        yield
    finally:
        if previous is None:
            del os.environ[_FULL_ERROR]
        else:
            os.environ[_FULL_ERROR] = previous


def can_be_mended(error: Exception) -> bool:
    """Return whether the user can mend an error."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    if isinstance(error, UserError | HydraException | OmegaConfBaseException | YAMLError | OSError):
        return True
    # The libraries that read what the user wrote also refuse it with exceptions of Python: Hydra with a ValueError
    # (width=5), OmegaConf with a RecursionError (name=${name}), Optuna's sweeper with a NotImplementedError.
    refusals = ValueError | TypeError | AssertionError | NotImplementedError | RecursionError | ImportError
    origin = _find_origin(error)
    is_refusal = origin in _SEARCHERS or (origin in _READERS and isinstance(error, refusals))
    return is_refusal or is_out_of_memory(error)


def _find_origin(error: Exception) -> str:
    """Return the library in which an error arose, or from which it was called; empty where that is this program."""
    modules = [str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    while modules and modules[-1].partition(".")[0].lstrip("_") in sys.stdlib_module_names:
        modules.pop()
    return modules[-1].partition(".")[0] if modules and not modules[-1].startswith(_OURS) else ""


def concerns_results(error: OSError) -> bool:
    """Return whether an error arose where results are written: Hydra makes their folders, three packages fill them."""
    import hydra

    here, hydras = Path(__file__).parent, Path(hydra.__file__).parent
    frames = (Path(frame.filename) for frame in reversed(traceback.extract_tb(error.__traceback__)))
    origin = next((frame for frame in frames if frame.is_relative_to(here) or frame.is_relative_to(hydras)), here)
    return any(origin.is_relative_to(folder) for folder in (hydras, here / "store", here / "publish", here / "report"))
