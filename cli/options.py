"""Options shared by the commands, in dashed and underscored spelling."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from engine.imagesets import ImageSet

F = TypeVar("F", bound=Callable[..., Any])


PATH = click.Path(path_type=Path)


def option(name: str, *more: str, **settings: Any) -> Callable[[F], F]:
    """A click option that is also known with underscores: `--model-dir` and `--model_dir`.

    Booleans take a value or none: `--overwrite`, `--overwrite=True`, `--overwrite=False`.
    """
    spellings = [name, *more]
    spellings += [f"--{each[2:].replace('-', '_')}" for each in spellings if "-" in each[2:]]
    if settings.get("type") is bool:
        settings |= {"is_flag": False, "flag_value": True, "default": settings.get("default", False)}
    parameter = name[2:].replace("-", "_")
    return click.option(*dict.fromkeys(spellings), parameter, **settings)


def model_options(function: F) -> F:
    """`--model-dir` and `--allow-custom-code`."""
    function = option(
        "--allow-custom-code",
        type=bool,
        help="Run code that the model file brings along, such as Lambda layers.",
    )(function)
    return option(
        "--model-dir",
        type=PATH,
        required=True,
        help="The model: a .keras or .h5 file, a Keras 2 SavedModel folder, or a folder that holds one of them.",
    )(function)


def method_option(function: F) -> F:
    """`--method`, kept because users write it; there is one method."""
    return option(
        "--method",
        type=click.Choice(["Arachne"]),
        default="Arachne",
        show_default=True,
        help="Repair method.",
    )(function)


def target_layer_option(function: F) -> F:
    """`--target-layer`."""
    return option(
        "--target-layer",
        type=int,
        help="Number of the layer to repair, as in weights.csv; by default the last Dense layer.",
    )(function)


def compute_options(function: F) -> F:
    """Options that say where to compute; the command gets them as `compute_settings`."""

    @functools.wraps(function)
    def command(
        *args: Any,
        num_workers: int | None,
        address: str | None,
        gpus_per_worker: float | None,
        spread_rows: bool,
        batch_size: int,
        **rest: Any,
    ) -> Any:
        from cluster.compute import ComputeOptions

        settings = ComputeOptions(
            num_workers=num_workers,
            address=address,
            gpus_per_worker=gpus_per_worker,
            spread_rows=spread_rows,
            batch_rows=batch_size,
            tiles=rest.pop("tiles", False),
        )
        return function(*args, compute_settings=settings, **rest)

    for decorate in (
        option(
            "--batch-size",
            type=int,
            default=256,
            show_default=True,
            help="Rows of one forward or gradient pass.",
        ),
        option("--spread-rows", type=bool, help="Send row blocks to the workers, whatever that costs."),
        option(
            "--gpus-per-worker",
            type=float,
            help="GPUs of each worker, fractions allowed [default: an equal share].",
        ),
        option("--address", help="Address of a running Ray cluster [default: start one here when it pays]."),
        option(
            "--num-workers",
            type=int,
            help="Ray workers; 0 computes in this process [default: decided by measured cost].",
        ),
    ):
        command = decorate(command)
    return command  # type: ignore[return-value]


def verbose_option(function: F) -> F:
    """`--verbose`."""
    return option("--verbose", type=int, default=1, show_default=True, help="0 prints results only, 1 also what ran.")(
        function
    )


def open_data(directory: Path, name: str) -> ImageSet:
    """Open `directory/name`, where `.h5` may be left out; a file given as the directory is taken as it is."""
    from engine.imagesets import open_image_set

    if directory.is_file():
        return open_image_set(directory)
    return open_image_set(directory / (name if name.endswith(".h5") else f"{name}.h5"))
