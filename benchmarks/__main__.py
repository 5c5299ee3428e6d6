"""``python -m benchmarks [section ...]``: measure, and print the tables of docs/performance.md."""

import argparse
import importlib
import importlib.util
import subprocess
import sys

#: What each section measures; they run in this order.
SECTIONS = {
    "step": "a step: the compiled kernel, autograd, JAX, the roofline",
    "sweep": "the reference sweep, against three ways of using Lightning and Hydra; agreement with a float64 loop",
    "scaling": "slopes of the cost against width, samples and runs",
    "cost": "seconds of ensembles against the cost model",
    "metrics": "NC1–NC3 in one pass against two passes",
    "startup": "from command to first step",
}
#: Modules that only benchmarks need.
_PEERS = ("jax", "hydra_plugins.hydra_joblib_launcher")


def main() -> None:
    """Run the sections that were asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure what the package costs, beside other ways of doing the same, in the same invocation.",
        epilog="sections:\n" + "\n".join(f"  {name:9}{text}" for name, text in SECTIONS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sections", nargs="*", metavar="section", help=f"{', '.join(SECTIONS)}; none: all")
    parser.add_argument("--quick", action="store_true", help="few repeats, short runs: a check, not a result")
    chosen = parser.parse_args()
    unknown = [name for name in chosen.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    if any(not _is_installed(name) for name in _PEERS):
        sys.exit('The peers are missing: pip install -c constraints.txt -e ".[benchmarks]"')

    from benchmarks import report
    from benchmarks.neighbours import Neighbours

    report.print_header(chosen.quick)
    for name in SECTIONS:
        if not chosen.sections or name in chosen.sections:
            report.console.rule(f"[bold]{name}")
            neighbours = Neighbours()
            _run_collapse_metrics(chosen.quick) if name == "metrics" else _run(name, chosen.quick)
            report.console.print(f"\nOther processes kept {neighbours.count_busy_cores():.2f} cores busy meanwhile.")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package is missing
        return False


def _run(section: str, quick: bool) -> None:
    """Import and run a section."""
    importlib.import_module(f"benchmarks.{section}").main(quick)


def _run_collapse_metrics(quick: bool) -> None:
    """Run a program of its own, which starts a process for each measurement."""
    options = ["--samples", "20000", "--repeats", "1"] if quick else ["--repeats", "5"]
    subprocess.run([sys.executable, "-m", "benchmarks.collapse_metrics", *options], check=True)


if __name__ == "__main__":
    main()
