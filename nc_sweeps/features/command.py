"""The entry point of ``nc-features``.

Slow libraries are imported where they are used, so that ``--help`` and wrong arguments answer at once.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nc_sweeps.command import describe_error, show_errors_in_one_line, show_version
from nc_sweeps.errors import UserError, is_out_of_memory
from nc_sweeps.process import prepare_command

if TYPE_CHECKING:
    from nc_sweeps.config import ReadConfig

_HELP = """Write the penultimate features of a torchvision model on a data set of images to a file for dataset=features.

Prints the path of the file, whose name ends in a hash of all that decides its content. If the command was stopped, the
same command goes on from there; it does nothing twice.

\b
nc-features dataset=cifar100_superclasses --model resnet50 \\
    'dataset.superclasses=[aquatic_mammals,people]'
"""

app = typer.Typer(rich_markup_mode=None)

_DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")
_KEYS = ("dataset", "data_dir", "seed")


@app.command(help=_HELP)
def features(
    dataset: Annotated[
        list[str], typer.Argument(help="dataset=NAME and its keys, as for nc-train", metavar="KEY=VALUE")
    ],
    model: Annotated[str, typer.Option(help="name of a classifier of torchvision")] = "resnet50",
    weights: Annotated[
        str, typer.Option(help="published (torchvision's default), none (random), or a file with a state dict")
    ] = "published",
    seed: Annotated[int, typer.Option(help="seed of random weights")] = 0,
    batch_size: Annotated[int, typer.Option(help="number of images in a batch")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")] = "auto",
    output: Annotated[Path, typer.Option(help="folder of the file", metavar="DIR")] = Path("features"),
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", help="show the version and exit", is_eager=True, callback=show_version)
    ] = False,
) -> None:
    """Write the features of a data set of images to a file."""
    for override in dataset:
        key, given, _ = override.partition("=")
        if not given or key.lstrip("+").split(".")[0] not in _KEYS:
            raise UserError(f"{override}: expected a key of the data set: {', '.join(f'{key}=…' for key in _KEYS)}")
    if batch_size < 1:
        raise UserError(f"--batch-size={batch_size}: must be at least 1")
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed={seed}: must be at least 0 and below 2⁶³")

    if device.partition(":")[0] not in _DEVICES:
        raise UserError(
            f"--device={device}: must be one of {', '.join(_DEVICES)}, of which one may be numbered: cuda:1"
        )
    if weights not in {"published", "none"} and not Path(weights).is_file():
        raise UserError(f"--weights={weights}: no such file; give one, or published, or none")
    config = _parse_images(dataset)
    # What is missing is said before torch is imported, which takes seconds.
    from nc_sweeps.data import load

    images = load(config)

    import torch
    from rich.console import Console

    from nc_sweeps.features.backbone import Backbone
    from nc_sweeps.features.extraction import Extraction
    from nc_sweeps.report.progress import make_progress_bar

    try:
        target = torch.device(device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    except RuntimeError as error:
        raise UserError(f"--device={device}: {str(error).splitlines()[0]}") from error
    extraction = Extraction(config.name, images, Backbone(model, weights, seed, target), output)
    console = Console(stderr=True)
    with make_progress_bar(console) as progress:
        task = progress.add_task(model, total=extraction.total, shown="")
        try:
            extraction.run(batch_size, lambda count: progress.advance(task, count), {"dataset": " ".join(dataset)})
        except KeyboardInterrupt:
            raise SystemExit("nc-features: interrupted; the same command goes on from here") from None
    print(extraction.path)


def _parse_images(overrides: list[str]) -> "ReadConfig":
    """Return the configuration of a data set of images that keeps their pixels in [0, 1]."""
    from nc_sweeps.composition import compose_config
    from nc_sweeps.config import ReadConfig, parse_dataset

    config = parse_dataset(compose_config(overrides))
    if not isinstance(config, ReadConfig):
        raise UserError(f"dataset={config.name}: has no images")
    return replace(config, unit_ball=False)


def main() -> None:
    """Run ``nc-features``."""
    with show_errors_in_one_line("nc-features", _describe):
        prepare_command()
        app()


def _describe(error: Exception) -> str:
    return "out of memory; take a smaller --batch-size" if is_out_of_memory(error) else describe_error(error)
