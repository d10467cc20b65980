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
from engine.localize.settings import LocalizeSettings
from engine.search.settings import OPTIMISER_SETTINGS, PopulationSettings, SearchSettings, own_fields

if TYPE_CHECKING:
    from engine.data.image_set import ImageSet
    from engine.metrics.requirements import Requirements

F = TypeVar("F", bound=Callable[..., Any])


PATH = click.Path(path_type=Path)


DATA, METHOD, SEARCH, PLACE, OUTPUT = "Data", "Method", "Search", "Where it runs", "Output"
"""Sections of the help."""


class Option(click.Option):
    """An option with what help, refusals, sweeps and parts of runs have to know of it, see `engine.core.stated.Stated`.

    `place`: it says where a command runs, or whom its user trusts: whoever merges parts gives their own. `reads`: it
    names one file or folder to read.
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
        super().__init__(*words, **settings)
        self.section, self.rare, self.owners, self.need = section, rare, owners, need
        self.place, self.reads = place or section == OUTPUT, reads


def options_in() -> dict[str, Option]:
    """Options of the current command by name."""
    command = click.get_current_context().command
    return {each.name: each for each in command.params if isinstance(each, Option) and each.name}


def option(name: str, *more: str, **settings: Any) -> Callable[[F], F]:
    """A click option, whose type follows from its default, which help shows; booleans take a value or none."""
    default = settings.get("default")
    if default is not None:
        settings = {"type": PATH if isinstance(default, Path) else type(default), "show_default": True, **settings}
    if settings.get("type") is int:
        settings["type"] = _Whole()
    if settings.get("type") is bool:
        settings |= {"is_flag": False, "flag_value": True, "default": settings.get("default", False)}
    return click.option(name, *more, name[2:].replace("-", "_"), **{"cls": Option, **settings})


def stated_option(stated: Stated) -> Callable[[F], F]:
    kind = click.Choice(stated.choices) if stated.choices else None if stated.kind is str else stated.kind
    words = {name: getattr(stated, name) for name in ("section", "rare", "owners", "need", "place", "metavar")}
    if stated.shown:
        words |= {"default": stated.default, "show_default": stated.shown}
    return option(flag_of(stated.name), type=kind, help=stated.text, **words)


def together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, in the order of the help."""

    def decorate(function: F) -> F:
        for each in reversed(options):
            function = each(function)
        return function

    return decorate


def settings_options(stated: Iterable[Stated]) -> Callable[[F], F]:
    return together(*map(stated_option, stated))


def flag_of(name: str) -> str:
    """An option as it is typed: `--num-workers` of `num_workers`."""
    return f"--{name.replace('_', '-')}"


def was_given(name: str) -> bool:
    """Whether an option stands on the current command line, be it with the value of its default."""
    source = click.get_current_context().get_parameter_source(name)
    return source not in (None, click.core.ParameterSource.DEFAULT)


class _Whole(click.types.IntParamType):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number = int(super().convert(value, param, ctx))
        if not -(2**63) <= number < 2**63:
            raise InputError(f"{param.name if param else 'value'} is {number}, expected a whole number of 64 bits")
        return number


def _model_options(**settings: Any) -> Callable[[F], F]:
    text = "A .keras or .h5 file, a Keras 2 SavedModel, or a folder with one of them."
    return together(
        option("--model-dir", type=PATH, section=DATA, reads=True, help=text, **settings), custom_code_option
    )


custom_code_option = option(
    "--allow-custom-code",
    type=bool,
    section=DATA,
    rare=True,
    place=True,
    help="Run code that the model file brings along, such as Lambda layers.",
)

model_options = _model_options(required=True)

workflow_model_options = _model_options(default=Path("outputs"))
"""Of the commands that look into `outputs`, as eAI-Repair-Toolkit's do, where nothing else is said."""


def target_data_option(text: str) -> Callable[[F], F]:
    return option("--target-data-dir", section=DATA, default=Path("outputs/negative/0"), help=text)


def data_option(name: str, text: str, **settings: Any) -> Callable[[F], F]:
    """An option that names a file or folder to read."""
    return option(name, **{"section": DATA, "reads": True, "type": PATH, "help": text, **settings})


chunks_option = data_option(
    "--chunks", "Folder of numbered chunks with a repair.h5 each, as of `split`.", required=True
)

shared_rows_option = option(
    "--allow-shared-rows",
    type=bool,
    section=DATA,
    rare=True,
    help="Go on where validation, test and searched rows share more than 1 % of the smaller of two sets.",
)

resume_options = together(
    option("--resume", type=bool, help="Go on with the interrupted run in --output-dir, or start it."),
    option("--overwrite", type=bool, help="Replace an earlier run."),
)

target_layer_option = option(
    "--target-layer",
    section=METHOD,
    multiple=True,
    callback=lambda _, __, given: tuple(name.strip() for text in given for name in text.split(",") if name.strip()),
    metavar="LAYER",
    help="Layers to repair, by name or number (-1 the last), with commas between; LAYER/WEIGHT is one weight, "
    "LAYER/* has the biases too, `all` is every layer [default: the last Dense layer; CrossFit: all Dense layers "
    "at the end, with biases].",
)


def explain_option(text: str) -> Callable[[F], F]:
    return option("--explain", section=PLACE, rare=True, place=True, type=bool, help=text)


_LOCALIZE = stated_fields(LocalizeSettings)


def localize_options(fronts: int) -> Callable[[F], F]:
    return settings_options({**_LOCALIZE, "fronts": replace(_LOCALIZE["fronts"], default=fronts)}.values())


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

SWEPT = tuple(each.name for each in (*_SEARCHES, _POSITIVE_WEIGHT, *_LOCALIZE.values()) if each.swept)
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


tiles_option = stated_option(_TILES)

positive_weight_option = stated_option(_POSITIVE_WEIGHT)


def options_of(other: str, *names: str, kind: type = float) -> Callable[[F], F]:
    """Hidden options of another command, which scripts for eAI-Repair-Toolkit give to all commands alike.

    They are taken with a note that they change nothing; those of `kind` str may be without a value.
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


def compute_options(function: F) -> F:
    """Options that say where to compute; the command gets them as `compute_settings`."""

    @functools.wraps(function)
    def command(*args: Any, **values: Any) -> Any:
        settings = made(ComputeOptions, values)
        own = {_TILES.name, *(each.name for each in _COMPUTE.values())}
        rest = {name: value for name, value in values.items() if name not in own}
        return function(*args, compute_settings=settings, **rest)

    return settings_options(_COMPUTE.values())(command)  # type: ignore[return-value]


place_options = settings_options(each for each in _COMPUTE.values() if each.place)
"""`--num-workers`, `--address`, `--gpus-per-worker` and `--spread-rows`."""

worker_options = settings_options(_COMPUTE[name] for name in ("num_workers", "address"))


def _verbose_option(text: str) -> Callable[[F], F]:
    return option("--verbose", default=1, callback=_not_negative, help=text)


def _not_negative(_: click.Context, parameter: click.Parameter, value: int) -> int:
    if value < 0:
        raise InputError(f"{parameter.name} is {value}, expected 0 or more")
    return value


verbose_option = _verbose_option("0 prints results only, 1 also what ran.")

silent_option = _verbose_option("0: warnings alone, 1: results and what ran, 2: Arachne's weights, each run too.")
"""Of commands whose results are files, as eAI-Repair-Toolkit has it."""

MOST_REPAIRS = 10_000
"""Whole repairs by one method that a run makes at most: each is a task from the start, and has a row of test rows."""


def check_seeds(seed: int, seeds: int) -> None:
    if not 1 <= seeds < 2**63:
        raise InputError(f"seeds is {seeds}, expected at least 1" + (" and less than 2^63" if seeds > 1 else ""))
    if not -(2**63) <= seed <= 2**63 - seeds:
        raise InputError(f"seed is {seed}, expected a whole number of 64 bits")


def check_inputs(options: Mapping[str, Any]) -> None:
    """Refuse what is to be read and is not there, among the options of a command: libraries take seconds to open it."""
    for name, stated in options_in().items():
        path: Path | None = options.get(name) if stated.reads else None
        try:
            if path is not None:
                path.stat()
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"{path}: no such file or folder, expected one for {flag_of(name)}") from None
        except OSError:
            continue  # whoever opens it says why that cannot be


def check_resume(options: Mapping[str, Any]) -> None:
    if options["resume"] and options["overwrite"]:
        raise InputError("--resume goes on with a run and --overwrite replaces it, expected one of them")


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
