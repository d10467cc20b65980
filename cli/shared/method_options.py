"""`--method` with the options that belong to one method alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cli.shared.options import PATH, option
from engine.core.errors import InputError
from engine.core.names import listed

if TYPE_CHECKING:
    from engine.methods.base import Method, MethodSettings, Need
    from engine.metrics.requirements import Requirements
    from engine.problem.crossfit import CrossFitSettings
    from engine.search.loop import SearchSettings

F = TypeVar("F", bound=Callable[..., Any])

ARACHNE, CROSSFIT = "Arachne", "CrossFit"

OF_METHOD: Mapping[str, Sequence[str]] = {
    ARACHNE: (
        *("positive_weight", "positive_weights", "num_input_pos_sampled", "mode", "max_rounds", "merge", "offers"),
        *("num_grad", "forward_impact", "fronts", "bound", "objective", "label_file", "positive_label_file"),
    ),
    CROSSFIT: ("recipes", "folds", "step", "promise_rows", "separate"),
}
"""Parameters of a command that mean something to one method with a pipeline of its own."""

OF_OTHERS = frozenset(
    (
        *("folds", "promise_rows", "seed", "seeds", "requirements", "val_data", "test_data"),
        *("num_particles", "num_iterations", "min_iteration_range", "positive_weight", "bound"),
        *("label_file", "positive_label_file"),
    )
)
"""Parameters of methods, of those above and of searches, that mean something to methods without such a pipeline."""

OF_NEEDS: Mapping[str, Need] = {"folds": "folds", "weights_dir": "checkpoints", "last": "checkpoints"}
"""Parameters that mean something to methods which work from this, and to no other."""


def method_option(default: str | None, text: str) -> Callable[[F], F]:
    """`--method`; without a default the command finds out which."""
    return option(
        "--method",
        callback=lambda _, __, given: None if given is None else _known(given),
        metavar="NAME",
        default=default,
        help=f"CrossFit tunes whole layers, Arachne searches single weights; and those of `compare` [default: {text}].",
    )


def _known(name: str) -> str:
    from engine.methods.registry import check_name

    return check_name(name)


def checkpoint_options(function: F) -> F:
    """`--weights-dir` and `--last`."""
    for decorate in (
        option(
            "--last",
            default="2,1",
            show_default=True,
            metavar="K,L",
            callback=lambda _, __, given: _parse_last(given),
            help="NeuRecover: compare the K-th checkpoint from the end with the L-th; K alone: with the last.",
        ),
        option(
            "--weights-dir",
            type=PATH,
            help="NeuRecover: checkpoints of the training [default: logs/model_check_points beside the model].",
        ),
    ):
        function = decorate(function)
    return function


def _parse_last(text: str) -> tuple[int, int]:
    """Two checkpoints counted from the last, the earlier one first: `5,2`, or `5` for `5,1`.

    Raises:
        InputError: it does not name two.
    """
    parts = [part.strip() for part in text.split(",")]
    numbers = [int(part) for part in parts if part.isdecimal() and len(part) < 10]
    earlier, later = (*numbers, 1, 1)[:2]
    if len(numbers) < len(parts) or len(parts) > 2 or not earlier > later >= 1:
        raise InputError(f"last is {text!r}, expected K,L: two checkpoints counted from the end, as in 2,1")
    return earlier, later


def checkpoints_beside(model: Path) -> Path:
    """Where `train` leaves the checkpoints of a model, given as `--model-dir` takes it."""
    from engine.models.checkpoints import FOLDER

    return (model if model.is_dir() else model.parent) / FOLDER


def checkpoint_folder(given: Path | None, model: Path, methods: Sequence[str]) -> Path | None:
    """Where the checkpoints of a training are that methods compare: what was given, or else where `train` leaves them.

    None where no method needs some, or nothing was given and there is no such folder.

    Raises:
        InputError: `--last` is of no use without a folder.
    """
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
    from engine.methods.registry import method_of

    try:
        return method_of(name)
    except InputError:
        return None


def _needs(name: str) -> Sequence[str]:
    method = imported(name)
    return () if method is None else method.needs


def crossfit_options(function: F) -> F:
    """`--recipes`, `--folds`, `--step` and `--promise-rows`."""
    for decorate in (
        option(
            "--promise-rows",
            type=int,
            help="CrossFit: new rows of each label that chances are about [default: as the test set has, else 1000].",
        ),
        option(
            "--step",
            type=float,
            help="CrossFit: how far to go towards the mixture that was found, 0 to 1 [default: as far as is promised].",
        ),
        option("--folds", type=int, help="CrossFit: folds of the repair rows [default: 5]."),
        option(
            "--recipes",
            metavar="RECIPES",
            help="CrossFit: tunings to mix, WEIGHT[:STRENGTH[:kl|focal][:rate=R][:epochs=N]] with commas between: "
            "weight of the label's rows, strength of the anchor to the model as it is [default: 1,2,4].",
        ),
    ):
        function = decorate(function)
    return function


def refuse_other_methods(method: str) -> None:
    """Refuse options of the current command line that mean nothing to a method.

    Raises:
        InputError: names the first of them.
    """
    context = click.get_current_context()
    mine = OF_OTHERS if method not in OF_METHOD else frozenset(OF_METHOD[method])
    for other, names in OF_METHOD.items():
        for name in names if other != method else ():
            if name not in mine and name not in OF_NEEDS and name in context.params and was_given(name):
                flag = f"--{name.replace('_', '-')}"
                raise InputError(f"{flag} is of {other} and the method is {method}, expected one without the other")
    refuse_unneeded([method], f"the method is {method}")


def refuse_unneeded(methods: Sequence[str], chosen: str) -> None:
    """Refuse options of the current command line that mean nothing to any of some methods, as those do without it.

    Args:
        methods: their names.
        chosen: that they are the ones, in words.

    Raises:
        InputError: names the first of them.
    """
    from engine.methods.registry import METHODS

    for name, need in OF_NEEDS.items():
        if was_given(name) and not any(need in _needs(method) for method in methods):
            owners = listed([method for method in METHODS if need in _needs(method)], len(METHODS))
            flag = f"--{name.replace('_', '-')}"
            raise InputError(f"{flag} is of {owners} and {chosen}, expected one without the other")


def refuse_unsearched(method: str, stated: Sequence[str]) -> None:
    """Refuse options of a search that are not among those which may be stated of that of a method.

    Raises:
        InputError: names the first of them.
    """
    from engine.methods.searches import OF_WEIGHTS

    for name in OF_WEIGHTS:
        if name not in stated and was_given(name):
            flag = f"--{name.replace('_', '-')}"
            raise InputError(f"{flag} means nothing to {method}, which does not search so, expected it without")


def was_given(name: str) -> bool:
    """Whether an option stands on the current command line."""
    source = click.get_current_context().get_parameter_source(name)
    return source not in (None, click.core.ParameterSource.DEFAULT)


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
    from engine.problem.crossfit import FOLDS, CrossFitSettings
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
    from engine.problem.crossfit import CrossFitSettings

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
    """Settings of a method: what was `given` of a search replaces what the method has of its own.

    Raises:
        InputError: an option is of another optimiser than the method's own, and that one was not named.
    """
    from engine.methods.base import MethodSettings
    from engine.methods.registry import method_of
    from engine.methods.searches import OPTIMISER, search_of

    names = ("num_particles", "num_iterations", "min_iteration_range", "positive_weight", "tile_bytes")
    stated = replace(search, positive_weight=positive_weight) if any(map(given, names)) else None
    settings = MethodSettings(crossfit, stated)
    moves = [name for name in (*OPTIMISER, "bound") if given(name)]
    if not moves:
        return settings
    own = search_of(method_of(method), settings)
    if own is not None and own.optimiser != search.optimiser and not given("optimiser"):
        flag, other = f"--{moves[0].replace('_', '-')}", search.optimiser
        raise InputError(f"{flag} is of {other} and {method} searches by {own.optimiser}, expected --optimiser too")
    return replace(settings, optimiser=search.swarm)


def requirements_option(function: F) -> F:
    """`--requirements`."""
    return option("--requirements", type=PATH, help="TOML file of what is required of the result.")(function)


def read_promises(path: Path | None, classes: int, names: Sequence[str] | None) -> Requirements:
    """What a repair aims at on every label: what a file states, or the default."""
    from engine.metrics.requirements import default_promises, read_requirements

    return default_promises(names, classes) if path is None else read_requirements(path, classes, names)
