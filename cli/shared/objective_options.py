"""Objectives of Arachne's searches that need more than a name: requirements, and priorities of labels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cli.shared.method_options import read_promises
from cli.shared.options import METHOD, PATH, F, option, refuse_confidence, together
from engine.core.errors import InputError

if TYPE_CHECKING:
    from engine.fitness.priorities import Priorities
    from engine.search.loop import SearchSettings

PRIORITIES = "label-priorities"
"""The method that is Arachne with priorities of labels."""


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
            refuse_confidence(required, requirements)
        return replace(settings, requirements=required.limits)
    priorities = stated_priorities(label_file, positive_label_file, classes)
    return settings if priorities is None else replace(settings, objective="priorities", priorities=priorities)


def stated_priorities(label_file: Path | None, positive_label_file: Path | None, classes: int) -> Priorities | None:
    """The priorities that files state, or None."""
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
