"""Options shared by the commands."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cluster.compute.options import ComputeOptions
from engine.core.errors import InputError
from engine.core.stated import Stated, made, stated_fields
from engine.fitness.shapes import Tiling
from engine.search.settings import OPTIMISER_SETTINGS, PopulationSettings, SearchSettings, own_fields

if TYPE_CHECKING:
    from engine.data.image_set import ImageSet
    from engine.metrics.requirements import Requirements

F = TypeVar("F", bound=Callable[..., Any])


PATH = click.Path(path_type=Path)


DATA, METHOD, SEARCH, PLACE, OUTPUT = "Data", "Method", "Search", "Where it runs", "Output"
"""Sections of the help."""


class Option(click.Option):
    """An option with what help, refusals, sweeps and parts of runs have to know of it.

    Attributes:
        section, rare, owners, need: see `engine.core.stated.Stated`.
        place: it says where a command runs, or whom its user trusts: whoever merges parts gives their own.
        reads: it names one file or folder to read.
    """

    def __init__(
        self,
        *words: Any,
        section: str = OUTPUT,
        rare: bool = False,
        owners: Sequence[str] = (),
        need: str = "",
        place: bool = False,
        reads: bool = False,
        **settings: Any,
    ) -> None:
        """As click's, with the attributes."""
        super().__init__(*words, **settings)
        self.section, self.rare, self.owners, self.need = section, rare, owners, need
        self.place, self.reads = place or section == OUTPUT, reads


def options_in(context: click.Context) -> dict[str, Option]:
    """The options of the command that runs, by name."""
    return {each.name: each for each in context.command.params if isinstance(each, Option) and each.name}


def option(name: str, *more: str, **settings: Any) -> Callable[[F], F]:
    """A click option, whose type follows from its default, which help shows.

    Booleans take a value or none: `--overwrite`, `--overwrite=True`, `--overwrite=False`.
    """
    default = settings.get("default")
    if default is not None:
        settings = {"type": PATH if isinstance(default, Path) else type(default), "show_default": True, **settings}
    if settings.get("type") is int:
        settings["type"] = _Whole()
    if settings.get("type") is bool:
        settings |= {"is_flag": False, "flag_value": True, "default": settings.get("default", False)}
    return click.option(name, *more, name[2:].replace("-", "_"), **{"cls": Option, **settings})


def stated_option(stated: Stated) -> Callable[[F], F]:
    """The option of a field of settings."""
    kind = click.Choice(stated.choices) if stated.choices else None if stated.kind is str else stated.kind
    shown: dict[str, Any] = {}
    if stated.shown:
        shown = {"default": stated.default, "show_default": stated.shown}
    return option(
        f"--{stated.name.replace('_', '-')}",
        type=kind,
        help=stated.text,
        section=stated.section,
        rare=stated.rare,
        owners=stated.owners,
        need=stated.need,
        place=stated.place,
        metavar=stated.metavar,
        **shown,
    )


def settings_options(stated: Iterable[Stated]) -> Callable[[F], F]:
    """Options of fields of settings, in this order."""

    def decorate(function: F) -> F:
        for each in reversed(list(stated)):
            function = stated_option(each)(function)
        return function

    return decorate


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
    folder = Path("outputs/negative/0")
    return option("--target-data-dir", type=PATH, section=DATA, default=folder, help=text)


def _model_options(**settings: Any) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        function = option(
            "--allow-custom-code",
            type=bool,
            section=DATA,
            rare=True,
            place=True,
            help="Run code that the model file brings along, such as Lambda layers.",
        )(function)
        text = "A .keras or .h5 file, a Keras 2 SavedModel, or a folder with one of them."
        return option("--model-dir", type=PATH, section=DATA, reads=True, help=text, **settings)(function)

    return decorate


def target_layer_option(function: F) -> F:
    """`--target-layer`."""
    return option(
        "--target-layer",
        section=METHOD,
        multiple=True,
        callback=lambda _, __, given: tuple(name.strip() for text in given for name in text.split(",") if name.strip()),
        metavar="LAYER",
        help="Layers to repair, by name or number (-1 the last), with commas between; LAYER/WEIGHT is one weight, "
        "LAYER/* has the biases too, `all` is every layer [default: the last Dense layer; CrossFit: all Dense layers "
        "at the end, with biases].",
    )(function)


_LOCALIZE = functools.partial(Stated, section=METHOD, owners=("Arachne",), swept=True)

LOCALIZE = (
    _LOCALIZE("num_grad", "Weights of largest gradient loss to choose from [default: 20 per negative input]."),
    _LOCALIZE(
        "forward_impact",
        "Over all negative inputs, or of the first one alone, as eAI-Repair-Toolkit computes it.",
        str,
        "mean",
        shown=True,
        choices=("mean", "first-row"),
    ),
    _LOCALIZE(
        "fronts",
        "Pareto fronts, each of what the ones before left: more of them give more weights to search.",
        shown=True,
    ),
)


def localize_options(fronts: int) -> Callable[[F], F]:
    """`--num-grad`, `--forward-impact` and `--fronts` with this default."""
    return settings_options(replace(each, default=fronts) if each.name == "fronts" else each for each in LOCALIZE)


_SEARCH = stated_fields(SearchSettings)
_POSITIVE_WEIGHT = _SEARCH.pop("positive_weight")
_COMPUTE = stated_fields(ComputeOptions)
_TILES = _COMPUTE.pop("tiles")

OPTIMISER_CHOICE = click.Choice(list(OPTIMISER_SETTINGS))

_OPTIMISER = Stated(
    "optimiser",
    "Particle swarm, differential evolution, or random draws as a floor for these.",
    str,
    "PSO",
    shown=True,
    choices=tuple(OPTIMISER_SETTINGS),
    swept=True,
)

_SEARCHES = (
    stated_fields(PopulationSettings)["num_particles"],
    *_SEARCH.values(),
    _OPTIMISER,
    *{each.name: each for kind in OPTIMISER_SETTINGS.values() for each in own_fields(kind).values()}.values(),
    _TILES,
    *stated_fields(Tiling).values(),
)

SWEPT = tuple(each.name for each in (*_SEARCHES, _POSITIVE_WEIGHT, *LOCALIZE) if each.swept)
"""Options that `evaluate --sweep` takes."""


def search_settings(*, optimiser: str, **values: Any) -> SearchSettings:
    """The settings of a search but for its positive weight, from the values of `search_options`."""
    kind = OPTIMISER_SETTINGS[optimiser]
    mine = own_fields(kind).values()
    for each in _SEARCHES:
        owners = [name for name, other in OPTIMISER_SETTINGS.items() if each in own_fields(other).values()]
        if owners and each not in mine and values[each.name] != (each.default if each.shown else None):
            told = " and ".join(", ".join(owners).rsplit(", ", 1))
            name = each.name
            raise InputError(f"{name} is of {told} and the optimiser is {optimiser}, expected one without the other")
    swarm, tiling = made(kind, values), made(Tiling, values)
    settings: SearchSettings = made(SearchSettings, {**values, "positive_weight": None}, swarm=swarm, tiling=tiling)
    return settings


def search_options(function: F) -> F:
    """Options of a search but for its positive weight; the command gets them as `settings`."""

    @functools.wraps(function)
    def command(*args: Any, **values: Any) -> Any:
        names = {each.name for each in _SEARCHES} - {"tiles"}
        settings = search_settings(**{name: values.pop(name) for name in names})
        return function(*args, settings=settings, **values)

    return settings_options(_SEARCHES)(command)  # type: ignore[return-value]


def tiles_option(function: F) -> F:
    """`--tiles`."""
    return stated_option(_TILES)(function)


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
    return stated_option(_POSITIVE_WEIGHT)(function)


def shared_rows_option(function: F) -> F:
    """`--allow-shared-rows`."""
    return option(
        "--allow-shared-rows",
        type=bool,
        section=DATA,
        rare=True,
        help="Go on where validation, test and searched rows share more than 1 % of the smaller of two sets.",
    )(function)


def compute_options(function: F) -> F:
    """Options that say where to compute; the command gets them as `compute_settings`."""

    @functools.wraps(function)
    def command(*args: Any, **values: Any) -> Any:
        settings = made(ComputeOptions, values)
        rest = {name: value for name, value in values.items() if name not in {*_names(_COMPUTE), _TILES.name}}
        return function(*args, compute_settings=settings, **rest)

    return settings_options(_COMPUTE.values())(command)  # type: ignore[return-value]


def _names(stated: Mapping[str, Stated]) -> list[str]:
    return [each.name for each in stated.values()]


def place_options(function: F) -> F:
    """`--num-workers`, `--address`, `--gpus-per-worker` and `--spread-rows`."""
    return settings_options(each for each in _COMPUTE.values() if each.place)(function)


def worker_options(function: F) -> F:
    """`--num-workers` and `--address`."""
    return settings_options(_COMPUTE[name] for name in ("num_workers", "address"))(function)


def verbose_option(function: F) -> F:
    """`--verbose`."""
    return _verbose_option("0 prints results only, 1 also what ran.")(function)


def silent_option(function: F) -> F:
    """`--verbose` of commands whose results are files, as eAI-Repair-Toolkit has it."""
    return _verbose_option("0: warnings alone, 1: results and what ran, 2: Arachne's weights, each run too.")(function)


def _verbose_option(text: str) -> Callable[[F], F]:
    return option("--verbose", default=1, callback=_not_negative, help=text)


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


def check_inputs(options: Mapping[str, Any]) -> None:
    """Refuse what is to be read and is not there, among the options of a command: libraries take seconds to open it."""
    for name, stated in options_in(click.get_current_context()).items():
        path: Path | None = options.get(name) if stated.reads else None
        try:
            if path is not None:
                path.stat()
        except (FileNotFoundError, NotADirectoryError):
            flag = f"--{name.replace('_', '-')}"
            raise InputError(f"{path}: no such file or folder, expected one for {flag}") from None
        except OSError:
            continue  # whoever opens it says why that cannot be


def check_run_directory(directory: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse a run directory that is in use, before anything is read for it."""
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
