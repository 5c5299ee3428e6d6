"""Arguments of the callback: what is wrong with one is said when the callback is made, not hours later."""

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields

from nc_sweeps.config.checks import suggest_choice
from nc_sweeps.errors import DataError
from nc_sweeps.metrics.collapse_measures import COLLAPSE_MEASURES
from nc_sweeps.theory.certificate import Certificate
from nc_sweeps.training.batch_norm import STATISTICS
from nc_sweeps.training.callback.loader import loader_without_repeats

LOSSES = ("mse", "cross_entropy")


def check_arguments(
    loss: object, head: object, every: object, training_mode: object, batch_norm: object, forward: object
) -> None:
    """Raise an error if an argument other than ``include`` and ``loaders`` makes no sense.

    Raises:
        ValueError: its message names the argument, its value and what would be right.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss={loss!r}: expected 'mse' or 'cross_entropy'")
    if not (head is None or (isinstance(head, str) and head)):
        raise ValueError(f"head={head!r}: expected the dotted name of a layer, such as 'network.fc'")
    is_number = isinstance(every, int) and not isinstance(every, bool)
    if every != "log" and not (is_number and every >= 1):  # type: ignore[operator]
        raise ValueError(f"every={every!r}: expected a number of epochs, or 'log'")
    if not isinstance(training_mode, bool):
        raise ValueError(f"training_mode={training_mode!r}: expected True or False")
    if batch_norm not in STATISTICS:
        raise ValueError(f"batch_norm={batch_norm!r}: expected {', '.join(map(repr, STATISTICS))}")
    if not callable(forward):
        raise ValueError(f"forward={forward!r}: expected a function of a module and a batch")


def check_loaders(loaders: object) -> None:
    """Raise an error if ``loaders`` are not loaders of data sets by name.

    Raises:
        ValueError: they are something else.
        DataError: it is not known which samples one of them has.
    """
    if loaders is None:
        return
    if not isinstance(loaders, Mapping) or not loaders or not all(isinstance(name, str) and name for name in loaders):
        raise ValueError(f"loaders={loaders!r}: expected loaders by name, such as {{'train': loader, 'test': other}}")
    for name, loader in loaders.items():
        try:
            loader_without_repeats(loader, 0, 1)
        except DataError as error:
            raise DataError(f"loaders: {name}: {error}") from error


def check_include(include: object, loss: str, training_mode: bool, sets: Sequence[str] | None) -> None:
    """Raise an error if a name or pattern fits nothing that could be measured.

    Args:
        include: the names and patterns.
        loss: loss of the network.
        training_mode: whether there are values in training mode.
        sets: names of the data sets; None: those of the Trainer.

    Raises:
        ValueError: one does not, or they are something else.
    """
    if isinstance(include, str) or not isinstance(include, Sequence):
        raise ValueError(f"include={include!r}: expected a list of names or patterns, such as ['nc1/*']")
    if not include:
        raise ValueError(f"include={include!r}: names nothing that could be measured")
    for pattern in include:
        if not isinstance(pattern, str):
            raise ValueError(f"include={include!r}: {pattern!r} is not a name or pattern, such as 'nc1/*'")
        names = list(list_names(loss, training_mode, sets or _guess_sets(pattern)))
        if not fnmatch.filter(names, pattern):
            if fnmatch.filter(list_names("mse", True, sets or _guess_sets(pattern)), pattern):
                needed = "training_mode=True" if "/training_mode" in pattern else "loss='mse'"
                raise ValueError(f"include={pattern}: is measured with {needed} only")
            hint = suggest_choice(pattern, [*names, *(f"{name}/*" for name in list_metrics(loss))])
            raise ValueError(f"include={pattern}: there is nothing of this name to measure; {hint}")


def list_metrics(loss: str) -> list[str]:
    """Return the metrics of a data set, such as ``nc1``, which values are named after."""
    certificate = [f"certificate/{part.name}" for part in fields(Certificate)] if loss == "mse" else []
    tightness = ["certificate/tightness"] if loss == "mse" else []
    return [*COLLAPSE_MEASURES, "nc4", "loss", "error", *certificate, *tightness]


def list_names(loss: str, training_mode: bool, sets: Sequence[str]) -> Iterator[str]:
    """Yield the names that values of some data sets may have; the first is the training set."""
    yield from ("head/sigma_min", "head/sigma_max", "balancedness")
    for mode in ["", "/training_mode"] if training_mode else [""]:
        yield f"gradient_norm/{sets[0]}{mode}"
        yield from (f"{metric}/{name}{mode}" for metric in list_metrics(loss) for name in sets)


def _guess_sets(pattern: str) -> list[str]:
    """Return the names that the data sets of a Trainer may have. Of several validation loaders, which only the Trainer
    knows, the list has the one that a pattern says.
    """
    _, _, key = pattern.removesuffix("/training_mode").partition("/val/")
    return ["train", "val", f"val/{key or 0}"]
