"""Keys that move together."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException


def jobs(pairs, *overrides, batch=None):
    # Looking for plugins, which other tests do, Hydra executes their modules again.
    from hydra_plugins.nc_sweeps_launcher.paired import PairedSweeper

    sweeper = PairedSweeper(batch, None, pairs)
    return sweeper.split_arguments(OverridesParser.create().parse_overrides(list(overrides)), batch)


def test_pairs_move_together_and_the_rest_in_all_combinations():
    found = jobs([["a", "b"], ["c", "d"]], "a=1,2,3", "b=x,y,z", "c=4,5", "d=6,7", "e=8,9", "f=0")
    expected = [
        [f"a={a}", f"b={b}", f"c={c}", f"d={d}", f"e={e}", "f=0"]
        for a, b in ((1, "x"), (2, "y"), (3, "z"))
        for c, d in ((4, 6), (5, 7))
        for e in (8, 9)
    ]
    assert found == [expected]
    assert jobs([["a", "b"]], "a=1,2,3", "b=x,y,z", batch=2) == [
        [["a=1", "b=x"], ["a=2", "b=y"]],
        [["a=3", "b=z"]],
    ]


def test_keys_that_cannot_be_paired_are_refused():
    with pytest.raises(HydraException, match="b is not swept; give it values"):
        jobs([["a", "b"]], "a=1,2", "b=3")
    with pytest.raises(HydraException, match="a has 2, b has 3"):
        jobs([["a", "b"]], "a=1,2", "b=3,4,5")


def test_it_is_a_sweeper_of_the_command(run_command, tmp_path):
    from tests.configs import TINY

    done = run_command(
        "-m", "hydra/launcher=packed", "hydra/sweeper=paired", "hydra.sweeper.pairs=[[width.particles,seed]]",
        *TINY[1:], "width.particles=8,12", "seed=3,4",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 runs: 2 completed" in done.stderr
