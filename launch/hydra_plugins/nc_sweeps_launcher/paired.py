"""``hydra/sweeper=paired``: Hydra's sweeper, with some keys that move together instead of in all combinations."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from nc_sweeps.config.private_names import BasicSweeper


@dataclass
class PairedConf:
    """Keys of ``hydra.sweeper``.

    Args:
        pairs: groups of swept keys that take their first values together, then their second, and so on.
    """

    _target_: str = "hydra_plugins.nc_sweeps_launcher.paired.PairedSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None
    pairs: list[list[str]] = field(default_factory=list)


ConfigStore.instance().store(group="hydra/sweeper", name="paired", node=PairedConf, provider="nc_sweeps")


class PairedSweeper(BasicSweeper):
    """Asks for the product of all values, without the jobs in which the values of a group stand at different places."""

    def __init__(
        self, max_batch_size: int | None, params: dict[str, str] | None, pairs: Sequence[Sequence[str]]
    ) -> None:
        super().__init__(max_batch_size, params)
        self.pairs = pairs

    def split_arguments(  # type: ignore[override]
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """Return batches of jobs, each a list of overrides.

        Raises:
            HydraException: a key of a group is not swept, or has another number of values than the others.
        """
        swept = {o.get_key_element(): list(o.sweep_string_iterator()) for o in overrides if o.is_sweep_override()}
        groups = [_pair_up(group, swept) for group in self.pairs]
        jobs = [
            job
            for job in BasicSweeper.split_arguments(overrides, None)[0]
            if all(rows & {frozenset(set(job) & words)} for rows, words in groups)
        ]
        return list(BasicSweeper.split_overrides_to_chunks(jobs, max_batch_size))


def _pair_up(group: Sequence[str], swept: dict[str, Any]) -> tuple[set[frozenset[str]], set[str]]:
    """Return the rows of overrides that go together, and the overrides of all rows."""
    missing = [key for key in group if key not in swept]
    if missing:
        raise HydraException(f"hydra.sweeper.pairs: {missing[0]} is not swept; give it values, as in {missing[0]}=a,b")
    counts = {key: len(swept[key]) for key in group}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{key} has {count}" for key, count in counts.items())
        raise HydraException(f"hydra.sweeper.pairs: keys that move together need as many values each; {listed}")
    rows = {
        frozenset(f"{key}={value}" for key, value in zip(group, row, strict=True))
        for row in zip(*(swept[key] for key in group), strict=True)
    }
    return rows, {word for row in rows for word in row}
