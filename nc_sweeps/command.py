"""The end of a command in an error: one line on stderr and exit code 1 where the user can mend it.

With ``HYDRA_FULL_ERROR=1`` in the environment every error shows its traceback. Hydra is imported when an error occurs:
not every command uses it.
"""

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from nc_sweeps.errors import UserError, explain_error, is_out_of_memory

_FULL_ERROR = "HYDRA_FULL_ERROR"


class PassThroughHydra(BaseException):
    """Carries an error, its ``__cause__``, through Hydra, which prints or swallows every ``Exception`` on its way."""


def describe_error(error: Exception) -> str:
    """Return the line for an error that the user can mend."""
    from nc_sweeps.config import explain_config_error

    is_of_a_file = isinstance(error, OSError) and error.filename
    return explain_error(error) if is_of_a_file or is_out_of_memory(error) else explain_config_error(error)


@contextmanager
def show_errors_in_one_line(command: str, describe: Callable[[Exception], str] = describe_error) -> Iterator[None]:
    """Turn an error that the user can mend into one line; any other is a defect of this program, raised as it is.

    Args:
        command: name with which the line begins.
        describe: returns the rest of it.

    Raises:
        SystemExit: with the line.
    """
    wants_traceback = os.environ.get(_FULL_ERROR) == "1"
    try:
        yield
        return
    except KeyboardInterrupt:
        raise SystemExit(f"{command}: interrupted") from None
    except PassThroughHydra as carrier:
        error = cast(Exception, carrier.__cause__)
    except Exception as raised:
        error = raised
    if wants_traceback or not can_be_mended(error):
        raise error
    raise SystemExit(f"{command}: {describe(error)}") from None


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
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    # Hydra refuses some overrides, such as width=5, with a bare ValueError.
    origin = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    is_refusal = isinstance(error, ValueError) and origin.is_relative_to(Path(hydra.__file__).parent)
    is_mendable = isinstance(error, UserError | HydraException | OmegaConfBaseException | OSError)
    return is_mendable or is_refusal or is_out_of_memory(error)


def concerns_results(error: OSError) -> bool:
    """Return whether an error arose where results are written: Hydra makes their folders, three packages fill them."""
    import hydra

    here, hydras = Path(__file__).parent, Path(hydra.__file__).parent
    frames = (Path(frame.filename) for frame in reversed(traceback.extract_tb(error.__traceback__)))
    origin = next((frame for frame in frames if frame.is_relative_to(here) or frame.is_relative_to(hydras)), here)
    return any(origin.is_relative_to(folder) for folder in (hydras, here / "store", here / "publish", here / "report"))
