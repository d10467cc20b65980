"""`--method`, with the options that belong to one method or one objective of its search."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cli.shared import options as opts
from cli.shared.options import DATA, METHOD, PATH, F, data_option, flag_of, option, together, was_given
from engine.core.errors import InputError
from engine.core.names import listed
from engine.core.stated import stated_fields
from engine.problem.crossfit_settings import FOLDS, CrossFitSettings

if TYPE_CHECKING:
    from engine.fitness.priorities import Priorities
    from engine.methods.base import Method, MethodSettings
    from engine.metrics.requirements import Requirements
    from engine.search.loop import SearchSettings

ARACHNE, CROSSFIT = "Arachne", "CrossFit"

PRIORITIES = "label-priorities"
"""The method that is Arachne with priorities of labels."""

PIPELINES = (ARACHNE, CROSSFIT)
"""Methods with a pipeline of their own; all others share one."""


def method_option(default: str | None, text: str) -> Callable[[F], F]:
    """`--method`; without a default the command finds out which."""
    return option(
        "--method",
        section=METHOD,
        callback=lambda _, __, given: None if given is None else _known(given),
        metavar="NAME",
        default=default,
        show_default=False,
        help=f"CrossFit tunes whole layers, Arachne searches single weights; and those of `compare` [default: {text}].",
    )


def _known(name: str) -> str:
    from engine.methods.registry import check_name

    return check_name(name)


def _parse_last(text: str) -> tuple[int, int]:
    """Two checkpoints counted from the last, the earlier one first: `5,2`, or `5` for `5,1`."""
    parts = [part.strip() for part in text.split(",")]
    numbers = [int(part) for part in parts if part.isdecimal() and len(part) < 10]
    earlier, later = (*numbers, 1, 1)[:2]
    if len(numbers) < len(parts) or len(parts) > 2 or not earlier > later >= 1:
        raise InputError(f"last is {text!r}, expected K,L: two checkpoints counted from the end, as in 2,1")
    return earlier, later


checkpoint_options = together(
    option(
        "--weights-dir",
        section=DATA,
        rare=True,
        need="checkpoints",
        type=PATH,
        help="NeuRecover: checkpoints of the training [default: logs/model_check_points beside the model].",
    ),
    option(
        "--last",
        section=DATA,
        rare=True,
        need="checkpoints",
        default="2,1",
        metavar="K,L",
        callback=lambda _, __, given: _parse_last(given),
        help="NeuRecover: compare the K-th checkpoint from the end with the L-th; K alone: with the last.",
    ),
)


def checkpoints_beside(model: Path) -> Path:
    """Where `train` leaves the checkpoints of a model, given as `--model-dir` takes it."""
    from engine.models.checkpoints import FOLDER

    return (model if model.is_dir() else model.parent) / FOLDER


def checkpoint_folder(given: Path | None, model: Path, methods: Sequence[str]) -> Path | None:
    """Where the checkpoints are that methods compare, by default where `train` leaves them; None without either."""
    if not any("checkpoints" in _needs(method) for method in methods):
        return None
    beside = checkpoints_beside(model)
    if given is None and not beside.is_dir():
        if was_given("last"):
            raise InputError(f"--last is given and {beside} is no folder, expected --weights-dir too")
        return None
    return beside if given is None else given


def imported(name: str) -> Method | None:
    """A method; None where it cannot be imported, which is told when it is to run."""
    from engine.methods.registry import method_of, parsed

    try:
        return method_of(parsed(name)[0])
    except InputError:
        return None


def _needs(name: str) -> Sequence[str]:
    method = imported(name)
    return () if method is None else method.needs


crossfit_options = opts.settings_options(stated_fields(CrossFitSettings).values())


def options_of_method(method: str) -> list[str]:
    """Options of the current command that mean something to this method, and not to all."""
    return [name for name, each in opts.options_in().items() if method in each.owners]


def refuse_other_methods(method: str) -> None:
    """Refuse options of the current command line that mean nothing to a method."""
    kind = method if method in PIPELINES else "others"
    for name, each in opts.options_in().items():
        if each.owners and kind not in each.owners and not each.need and was_given(name):
            owner = each.owners[0]
            raise InputError(
                f"{flag_of(name)} is of {owner} and the method is {method}, expected one without the other"
            )
    refuse_unneeded([method], f"the method is {method}")


def refuse_unneeded(methods: Sequence[str], chosen: str) -> None:
    """Refuse options of the current command line without which these methods do; `chosen` says which in words."""
    from engine.methods.registry import METHODS

    for name, each in opts.options_in().items():
        if each.need and was_given(name) and not any(each.need in _needs(method) for method in methods):
            owners = listed([method for method in METHODS if each.need in _needs(method)], len(METHODS))
            raise InputError(f"{flag_of(name)} is of {owners} and {chosen}, expected one without the other")


def refuse_unsearched(method: str, stated: Sequence[str]) -> None:
    """Refuse options of a search that are not among those which may be stated of that of a method."""
    from engine.methods.given import OF_WEIGHTS

    for name in OF_WEIGHTS:
        if name not in stated and was_given(name):
            raise InputError(
                f"{flag_of(name)} means nothing to {method}, which does not search so, expected it without"
            )


def crossfit_settings(
    search: SearchSettings,
    required: Requirements,
    *,
    recipes: str | None,
    folds: int | None,
    step: float | None,
    promise_rows: int,
) -> CrossFitSettings:
    """Settings of a repair from what was given; the swarm is smaller than Arachne's, unless its size was given."""
    from engine.tuning.recipes import DEFAULT_RECIPES, read_recipes

    return CrossFitSettings(
        recipes=read_recipes(DEFAULT_RECIPES if recipes is None else recipes),
        folds=FOLDS if folds is None else folds,
        search=crossfit_search(search),
        step=step,
        promise_rows=promise_rows,
        confidence=0.95 if required.confidence is None else required.confidence,
    )


def crossfit_search(search: SearchSettings, given: Callable[[str], bool] = was_given) -> SearchSettings:
    """The search of a CrossFit repair: with its own numbers where none were `given`."""
    own = CrossFitSettings().search
    if not given("num_particles"):
        search = replace(search, swarm=replace(search.swarm, num_particles=own.swarm.num_particles))
    for name in ("num_iterations", "min_iteration_range"):
        if not given(name):
            search = replace(search, **{name: getattr(own, name)})
    return search


def method_settings(
    method: str,
    crossfit: CrossFitSettings,
    search: SearchSettings,
    positive_weight: float | None,
    given: Callable[[str], bool] = was_given,
) -> MethodSettings:
    """Settings of a method: what was `given` of a search replaces what the method has of its own."""
    from engine.methods.base import MethodSettings
    from engine.methods.given import OPTIMISER, search_of
    from engine.methods.registry import method_of

    names = ("num_particles", "num_iterations", "min_iteration_range", "positive_weight", "tile_bytes")
    stated = replace(search, positive_weight=positive_weight) if any(map(given, names)) else None
    settings = MethodSettings(crossfit, stated)
    moves = [name for name in OPTIMISER if given(name)]
    if not moves:
        return settings
    own = search_of(method_of(method), settings)
    if own is not None and own.optimiser != search.optimiser and not given("optimiser"):
        raise InputError(
            f"{flag_of(moves[0])} is of {search.optimiser} and {method} searches by {own.optimiser}, expected "
            "--optimiser too"
        )
    return replace(settings, optimiser=search.swarm)


requirements_option = data_option("--requirements", "TOML file of what is required of the result.", section=METHOD)


def read_promises(path: Path | None, classes: int, names: Sequence[str] | None) -> Requirements:
    """What a repair aims at on every label: what a file states, or the default."""
    from engine.metrics.requirements import default_promises, read_requirements

    return default_promises(names, classes) if path is None else read_requirements(path, classes, names)


def label_file_options(owners: str) -> Callable[[F], F]:
    """`--label-file` and `--positive-label-file`, of these methods."""
    weights = functools.partial(option, section=METHOD, rare=True, owners=("Arachne", "others"), reads=True, type=PATH)
    return together(
        weights(
            "--label-file",
            help=f"{owners}: negative/labels.json of `target`, edited: repair_priority is the weight of a negative "
            "input of each label.",
        ),
        weights(
            "--positive-label-file",
            help=f"{owners}, with --label-file: positive/labels.json, whose prevent_degradation is the weight of a "
            "positive input of each label [default: all alike].",
        ),
    )


def check_objective(
    settings: Sequence[SearchSettings],
    requirements: Path | None,
    label_file: Path | None = None,
    positive_label_file: Path | None = None,
) -> None:
    """Refuse what belongs to another objective, or to none; `requirements` are of the objective alone."""
    names = list(dict.fromkeys(each.objective for each in settings))
    if requirements is not None and "requirements" not in names:
        raise InputError(
            f"--requirements is of CrossFit and of --objective requirements, and the method is Arachne with objective "
            f"{names[0]}, expected one without the other"
        )
    if label_file is not None and names != ["arachne"]:
        raise InputError(
            f"--label-file makes an objective of its own and --objective is {names[0]}, expected one without the other"
        )
    if label_file is None and positive_label_file is not None:
        raise InputError("--positive-label-file is given and --label-file is not, expected that too")


def objective_settings(
    settings: SearchSettings,
    classes: int,
    names: Sequence[str] | None,
    *,
    requirements: Path | None = None,
    label_file: Path | None = None,
    positive_label_file: Path | None = None,
) -> SearchSettings:
    """The settings with what their objective needs of files, for data of so many classes."""
    if settings.objective == "requirements":
        required = read_promises(requirements, classes, names)
        if requirements is not None:
            opts.refuse_confidence(required, requirements)
        return replace(settings, requirements=required.limits)
    priorities = stated_priorities(label_file, positive_label_file, classes)
    return settings if priorities is None else replace(settings, objective="priorities", priorities=priorities)


def stated_priorities(label_file: Path | None, positive_label_file: Path | None, classes: int) -> Priorities | None:
    if label_file is None:
        if positive_label_file is not None:
            raise InputError("--positive-label-file is given and --label-file is not, expected that too")
        return None

    from engine.data.label_file import read_priorities
    from engine.fitness.priorities import Priorities

    repair = read_priorities(label_file, "repair_priority", classes)
    protect = None
    if positive_label_file is not None:
        protect = read_priorities(positive_label_file, "prevent_degradation", classes)
    return Priorities(repair, protect)


def searched_labels(settings: SearchSettings, labels: Sequence[int], *, chosen: bool, source: Path) -> tuple[int, ...]:
    """Of the labels under repair, those whose rows count; `chosen`: labels were named one by one."""
    assert settings.priorities is not None
    counted = settings.priorities.repaired(labels)
    without = [label for label in labels if label not in counted]
    if without and (chosen or len(without) == len(labels)):
        raise InputError(
            f"{source} gives label {without[0]}, which is to be repaired, no repair_priority above 0, expected one, or "
            "other labels"
        )
    return tuple(counted)
