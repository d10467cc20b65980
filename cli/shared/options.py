"""Options shared by the commands."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from engine.core.errors import InputError

if TYPE_CHECKING:
    from engine.data.image_set import ImageSet
    from engine.fitness.objective import ObjectiveName
    from engine.metrics.requirements import Requirements
    from engine.search.population import PopulationSettings

F = TypeVar("F", bound=Callable[..., Any])


PATH = click.Path(path_type=Path)


def option(name: str, *more: str, **settings: Any) -> Callable[[F], F]:
    """A click option; booleans take a value or none: `--overwrite`, `--overwrite=True`, `--overwrite=False`."""
    if settings.get("type") is int:
        settings["type"] = _Whole()
    if settings.get("type") is bool:
        settings |= {"is_flag": False, "flag_value": True, "default": settings.get("default", False)}
    return click.option(name, *more, name[2:].replace("-", "_"), **settings)


def given(name: str) -> bool:
    """Whether an option of the command that runs was given, be it with the value of its default."""
    return click.get_current_context().get_parameter_source(name) is not click.core.ParameterSource.DEFAULT


class _Whole(click.types.IntParamType):
    """Whole numbers that tables and machines can hold."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number = int(super().convert(value, param, ctx))
        if not -(2**63) <= number < 2**63:
            raise InputError(f"{param.name if param else 'value'} is {number}, expected a whole number of 64 bits")
        return number


def model_options(function: F) -> F:
    """`--model-dir`, which must be given, and `--allow-custom-code`."""
    return _model_options(required=True)(function)


def workflow_model_options(function: F) -> F:
    """The same of the commands that look into `outputs`, as eAI-Repair-Toolkit's do, where nothing else is said."""
    return _model_options(default=Path("outputs"), show_default=True)(function)


def target_data_option(text: str) -> Callable[[F], F]:
    """`--target-data-dir` of the commands that take one."""
    return option("--target-data-dir", type=PATH, default=Path("outputs/negative/0"), show_default=True, help=text)


def _model_options(**settings: Any) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        function = option(
            "--allow-custom-code",
            type=bool,
            help="Run code that the model file brings along, such as Lambda layers.",
        )(function)
        text = "A .keras or .h5 file, a Keras 2 SavedModel, or a folder with one of them."
        return option("--model-dir", type=PATH, help=text, **settings)(function)

    return decorate


def target_layer_option(function: F) -> F:
    """`--target-layer`."""
    return option(
        "--target-layer",
        multiple=True,
        callback=lambda _, __, given: tuple(name.strip() for text in given for name in text.split(",") if name.strip()),
        metavar="LAYER",
        help="Layers to repair, by name or number (-1 the last), with commas between; LAYER/WEIGHT is one weight, "
        "LAYER/* has the biases too, `all` is every layer [default: the last Dense layer; CrossFit: all Dense layers "
        "at the end, with biases].",
    )(function)


def localize_options(fronts: int) -> Callable[[F], F]:
    """`--num-grad`, `--forward-impact` and `--fronts` with this default."""
    options = (
        option(
            "--fronts",
            type=int,
            default=fronts,
            show_default=True,
            help="Pareto fronts, each of what the ones before left: more of them give more weights to search.",
        ),
        option(
            "--forward-impact",
            type=click.Choice(["mean", "first-row"]),
            default="mean",
            show_default=True,
            help="Over all negative inputs, or of the first one alone, as eAI-Repair-Toolkit computes it.",
        ),
        option(
            "--num-grad",
            type=int,
            help="Weights of largest gradient loss to choose from [default: 20 per negative input].",
        ),
    )

    def decorate(function: F) -> F:
        for add_option in options:
            function = add_option(function)
        return function

    return decorate


MOVES: Mapping[str, Mapping[str, str]] = {
    "PSO": {"velocity_phi": "phi", "phi_split": "phi_split", "velocity_floor": "velocity_floor"},
    "DE": {"bound": "bound", "de_factor": "factor", "de_crossover": "crossover"},
    "CMA-ES": {"bound": "bound", "cma_step": "step"},
    "random": {"bound": "bound"},
}
"""The options of each optimiser, with the names that its settings have for them."""

_SWARM_DEFAULTS = {"velocity_phi": 4.1, "phi_split": True, "velocity_floor": False}


def _optimiser_settings(optimiser: str, num_particles: int, moves: Mapping[str, Any]) -> PopulationSettings:
    """Settings of an optimiser; `moves` are the options of all of them, as they were given or are by default.

    Raises:
        InputError: one of another optimiser was given.
    """
    from engine.search.optimisers import OPTIMISERS

    mine = MOVES[optimiser]
    for name, value in moves.items():
        if name not in mine and value != _SWARM_DEFAULTS.get(name):
            owners = ", ".join(other for other, names in MOVES.items() if name in names)
            owners = " and ".join(owners.rsplit(", ", 1))
            raise InputError(f"{name} is of {owners} and the optimiser is {optimiser}, expected one without the other")
    given = {mine[name]: value for name, value in moves.items() if name in mine and value is not None}
    return OPTIMISERS[optimiser].settings(num_particles=num_particles, **given)


def tiles_option(function: F) -> F:
    """`--tiles`."""
    text = "Send pieces of every iteration to the workers, whatever that costs."
    return option("--tiles", type=bool, help=text)(function)


def search_options(function: F) -> F:
    """Options of a search but for its positive weight; the command gets them as `settings`."""

    @functools.wraps(function)
    def command(
        *args: Any,
        num_particles: int,
        num_iterations: int,
        min_iteration_range: int,
        num_input_pos_sampled: int | None,
        velocity_phi: float,
        phi_split: bool,
        velocity_floor: bool,
        optimiser: str,
        bound: float | None,
        de_factor: float | None,
        de_crossover: float | None,
        cma_step: float | None,
        objective: ObjectiveName,
        tile_particles: int | None,
        tile_rows: int | None,
        tile_bytes: int | None,
        **rest: Any,
    ) -> Any:
        from engine.fitness.tiling import Tiling
        from engine.search.loop import SearchSettings

        moves: dict[str, Any] = {"velocity_phi": velocity_phi, "phi_split": phi_split, "velocity_floor": velocity_floor}
        moves |= {"bound": bound, "de_factor": de_factor, "de_crossover": de_crossover, "cma_step": cma_step}
        settings = SearchSettings(
            swarm=_optimiser_settings(optimiser, num_particles, moves),
            num_iterations=num_iterations,
            min_iteration_range=min_iteration_range,
            num_input_pos_sampled=num_input_pos_sampled,
            tiling=Tiling(tile_particles, tile_rows, tile_bytes),
            objective=objective,
        )
        return function(*args, settings=settings, **rest)

    for decorate in reversed(
        (
            option(
                "--num-particles",
                type=int,
                default=100,
                show_default="100; CrossFit: 32",
                help="Particles of the swarm, candidates of any other optimiser.",
            ),
            option(
                "--num-iterations",
                type=int,
                default=100,
                show_default="100; CrossFit: 80",
                help="Iterations at most.",
            ),
            option(
                "--min-iteration-range",
                type=int,
                default=10,
                show_default="10; CrossFit: 20",
                help="Stop after so many without gain.",
            ),
            option("--num-input-pos-sampled", type=int, help="Search on so many positive inputs [default: all]."),
            option(
                "--velocity-phi",
                type=float,
                default=_SWARM_DEFAULTS["velocity_phi"],
                show_default=True,
                help="PSO: sum of the attraction coefficients, above 4.",
            ),
            option(
                "--phi-split",
                type=bool,
                default=True,
                show_default=True,
                help="PSO: draw each coefficient from (0, phi/2); False from (0, phi).",
            ),
            option(
                "--velocity-floor",
                type=bool,
                show_default=True,
                help="PSO: keep speeds above 1/5 of the range of the layer's weights.",
            ),
            option(
                "--objective",
                type=click.Choice(["arachne", "loss", "requirements"]),
                default="arachne",
                show_default=True,
                help="Arachne's, of counts and mean losses; or the later one's, 1 for each row that is right and "
                "1 / (loss + 1) for each that is wrong; or gain within --requirements, or else with no label 3 points "
                "down.",
            ),
            option(
                "--optimiser",
                type=click.Choice(list(MOVES)),
                default="PSO",
                show_default=True,
                help="Particle swarm, differential evolution, CMA-ES, or random draws as a floor for these.",
            ),
            option(
                "--bound",
                type=float,
                help="DE, CMA-ES, random: keep weights within so many times the smallest and largest weight of the "
                "layer, at least 1 [default: anywhere].",
            ),
            option("--de-factor", type=float, help="DE: F [default: drawn from 0.5 to 1 in each iteration]."),
            option("--de-crossover", type=float, help="DE: CR, share of the weights that change [default: 0.7]."),
            option(
                "--cma-step",
                type=float,
                help="CMA-ES: first step, in standard deviations of the layer's weights [default: 0.3].",
            ),
            tiles_option,
            option(
                "--tile-bytes",
                type=int,
                help="Values that a piece holds at once, in bytes: its particles and rows follow from it and the job "
                "[default: 64 MiB, behind deeper layers 256 MiB, CrossFit 6 MiB].",
            ),
            option("--tile-particles", type=int, help="Particles of a piece [default: by the job, at most 128]."),
            option(
                "--tile-rows",
                type=int,
                help="Rows of a piece [default: by the job]; another size may change last digits.",
            ),
        )
    ):
        command = decorate(command)
    return command  # type: ignore[return-value]


def options_of(other: str, *names: str, kind: type = float) -> Callable[[F], F]:
    """Options of another command, which scripts written for eAI-Repair-Toolkit give to all commands alike.

    They are taken with a note that they change nothing, and not shown by `--help`. Those of `kind` str may be without
    a value.
    """

    def tell(_: click.Context, parameter: click.Parameter, value: object) -> None:
        if value is not None:
            click.echo(f"note: {parameter.opts[0]} is of {other} and changes nothing here", err=True)

    def decorate(function: F) -> F:
        for name in names:
            bare: dict[str, Any] = {"is_flag": False, "flag_value": ""} if kind is str else {}
            function = option(name, type=kind, hidden=True, expose_value=False, callback=tell, **bare)(function)
        return function

    return decorate


SEARCH_OPTIONS_OF_TOOLKIT = (
    "--num-particles",
    "--num-iterations",
    "--num-input-pos-sampled",
    "--velocity-phi",
    "--min-iteration-range",
)


def positive_weight_option(function: F) -> F:
    """`--positive-weight`."""
    return option(
        "--positive-weight",
        type=float,
        help="Arachne: worth of keeping all positive inputs right, in repaired negative inputs; a low one repairs and "
        "breaks more [default: 0.15 for each].",
    )(function)


def shared_rows_option(function: F) -> F:
    """`--allow-shared-rows`."""
    return option(
        "--allow-shared-rows",
        type=bool,
        help="Go on where validation, test and searched rows share more than 1 % of the smaller of two sets.",
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
        from cluster.compute.options import ComputeOptions

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
        place_options,
    ):
        command = decorate(command)
    return command  # type: ignore[return-value]


def place_options(function: F) -> F:
    """`--num-workers`, `--address`, `--gpus-per-worker` and `--spread-rows`."""
    function = option("--spread-rows", type=bool, help="Send row blocks to the workers, whatever that costs.")(function)
    function = option(
        "--gpus-per-worker",
        type=float,
        help="GPUs of each worker, fractions allowed [default: an equal share].",
    )(function)
    return worker_options(function)


def worker_options(function: F) -> F:
    """`--num-workers` and `--address`."""
    function = option("--address", help="Of a running Ray cluster [default: start one if it pays].")(function)
    return option(
        "--num-workers",
        type=int,
        help="Ray workers; 0: this process [default: by measured cost].",
    )(function)


def verbose_option(function: F) -> F:
    """`--verbose`."""
    return _verbose_option("0 prints results only, 1 also what ran.")(function)


def silent_option(function: F) -> F:
    """`--verbose` of commands whose results are files, as eAI-Repair-Toolkit has it."""
    return _verbose_option("0: warnings alone, 1: results and what ran, 2: Arachne's weights, each run too.")(function)


def _verbose_option(text: str) -> Callable[[F], F]:
    return option("--verbose", type=int, default=1, show_default=True, callback=_not_negative, help=text)


def _not_negative(ctx: click.Context, parameter: click.Parameter, value: int) -> int:
    del ctx
    if value < 0:
        raise InputError(f"{parameter.name} is {value}, expected 0 or more")
    return value


MOST_REPAIRS = 10_000
"""Whole repairs by one method that a run makes at most: each is a task from the start, and has a row of test rows."""


def check_seeds(seed: int, seeds: int) -> None:
    """Refuse numbers of seeds that no run can have."""
    if not 1 <= seeds < 2**63:
        raise InputError(f"seeds is {seeds}, expected at least 1" + (" and less than 2^63" if seeds > 1 else ""))
    if not -(2**63) <= seed <= 2**63 - seeds:
        raise InputError(f"seed is {seed}, expected a whole number of 64 bits")


INPUTS = ("model_dir", "chunks", "val_data", "test_data", "requirements", "label_file", "positive_label_file")
"""Options that name one file or folder to read."""


def check_inputs(options: Mapping[str, Any]) -> None:
    """Refuse what is to be read and is not there, among the options of a command: libraries take seconds to open it.

    Raises:
        InputError: names the first of them.
    """
    for name in INPUTS:
        path: Path | None = options.get(name)
        try:
            if path is not None:
                path.stat()
        except (FileNotFoundError, NotADirectoryError):
            flag = f"--{name.replace('_', '-')}"
            raise InputError(f"{path}: no such file or folder, expected one for {flag}") from None
        except OSError:
            continue  # whoever opens it says why that cannot be


def check_run_directory(directory: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse a run directory that is in use, before anything is read for it.

    Raises:
        InputError: something is there already that is neither to be resumed nor replaced.
    """
    from cluster.records.store import RunRecords, holds_run

    if not (resume and holds_run(directory)):
        RunRecords.check_new(directory, overwrite=overwrite)


def check_repairs(name: str, count: int) -> None:
    """Refuse more repairs, as an option counts them, than a run has a row for each of."""
    if not 1 <= count <= MOST_REPAIRS:
        expected = "at least 1" if count < 1 else f"at most {MOST_REPAIRS}"
        raise InputError(f"{name} is {count}, expected {expected}")


def refuse_confidence(requirements: Requirements, path: Path) -> None:
    """Refuse requirements, read from `path`, that ask for a confidence, where Arachne repairs: it does not use one."""
    if requirements.confidence is not None:
        raise InputError(
            f"{path} states confidence = {requirements.confidence}, which only --method CrossFit uses, expected none"
        )


def open_data(directory: Path, name: str) -> ImageSet:
    """Open `directory/name`, where `.h5` may be left out; a file given as the directory is taken as it is."""
    from engine.data.image_set import open_image_set

    if directory.is_file():
        return open_image_set(directory)
    return open_image_set(directory / (name if name.endswith(".h5") else f"{name}.h5"))
