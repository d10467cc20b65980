"""What a report says of CrossFit: plain values, selected from `run.json` and the tables that only CrossFit writes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from cli.run_report.rows import change_of, promise_of
from cli.shared.method_options import CROSSFIT
from engine.metrics.accuracy import LabelChange
from engine.tuning.recipes import Recipe

if TYPE_CHECKING:
    from engine.metrics.promise import Promise

OUT_OF_FOLD = "out of fold"
"""Split of the table `labels`: repair rows, each judged by tunings that did not see it."""


@dataclass(frozen=True)
class TuningView:
    """A row of the table `tunings`."""

    fold: int
    epochs: int
    rows: int
    change: float
    worker: str
    seconds: float


@dataclass(frozen=True)
class RecipeView:
    """A recipe in the mixture.

    Attributes:
        name: as `--recipes` takes it.
        tunings: by ascending fold; those that have ended.
        found: coefficient of the search, or None before its end.
        taken: the same times the step.
    """

    name: str
    tunings: tuple[TuningView, ...]
    found: float | None
    taken: float | None

    @property
    def change(self) -> float | None:
        """Mean over the folds of how far the weights moved; None before the first tuning has ended."""
        return math.fsum(tuning.change for tuning in self.tunings) / len(self.tunings) if self.tunings else None


@dataclass(frozen=True)
class OffsetView:
    """The offset of a label's logit: of the search, and times the step."""

    label: int
    found: float
    taken: float


@dataclass(frozen=True)
class PointView:
    """A row of the table `frontier`: a step and what it does; shares, and None where no row tells."""

    step: float
    chance: float
    met: int
    gain: float | None
    all: float
    worst: float | None
    worst_label: int
    fixed: int
    broken: int
    enough: int | None
    taken: bool


@dataclass(frozen=True)
class CrossFitView:
    """A repair by CrossFit, as far as it is.

    Attributes:
        recipes: in the order given.
        folds: of the repair rows.
        layers: whose weights are tuned.
        weights: tuned, or None before the first tuning has ended.
        offsets: by label; empty where none were searched.
        frontier: by ascending step; empty before the end, and where there was nothing to repair.
        promises: of each requirement at the step taken, or of the model as it is where there was nothing to repair.
        judged: out of fold at that step, by label.
        promised: the chance of all together reaches the confidence.
        confidence: that was asked for.
        new_rows: of each label, that chances are about.
        asked_step: the step was asked for and not chosen.
        stated: the user stated the requirements.
        notes: what else the run said.
    """

    recipes: tuple[RecipeView, ...]
    folds: int
    layers: tuple[str, ...]
    weights: int | None
    offsets: tuple[OffsetView, ...]
    frontier: tuple[PointView, ...]
    promises: tuple[Promise, ...]
    judged: tuple[LabelChange, ...]
    promised: bool
    confidence: float
    new_rows: int
    asked_step: bool
    stated: bool
    notes: tuple[str, ...]

    @property
    def step(self) -> float:
        """The one taken; 0 is the model as it is."""
        return next((point.step for point in self.frontier if point.taken), 0.0)

    @property
    def chance(self) -> float:
        """That new rows keep all requirements together."""
        return math.prod(promise.chance for promise in self.promises)

    @property
    def judges(self) -> bool:
        """There is something to say of promises: of a model left as it is only where the user asked for something."""
        return bool(self.frontier or (self.promises and self.stated))

    @property
    def tuned(self) -> int:
        """Tunings that have ended."""
        return sum(len(recipe.tunings) for recipe in self.recipes)

    @property
    def wanted(self) -> float:
        """The chance that each requirement alone has to reach, so that all together reach the confidence."""
        return math.pow(self.confidence, 1 / max(1, len(self.promises)))

    @property
    def lacking(self) -> tuple[Promise, ...]:
        """Requirements that do not reach their part of the confidence."""
        return tuple(promise for promise in self.promises if promise.chance < self.wanted)

    @property
    def easiest(self) -> PointView | None:
        """Of the steps above 0 the one that could be promised from fewest rows; None where no number would do."""
        known = [point for point in self.frontier if point.step > 0 and point.enough is not None]
        return min(known, key=lambda point: point.enough or 0, default=None)

    @property
    def enough(self) -> int | None:
        """Rows of each label from which all requirements would reach their part; None where no number would."""
        counts = [promise.enough for promise in self.lacking]
        known = [count for count in counts if count is not None]
        return max(known, default=0) if len(known) == len(counts) else None


def read_crossfit(
    facts: Mapping[str, Any], rows_of: Callable[[str], Sequence[Mapping[str, Any]]]
) -> CrossFitView | None:
    """What `run.json` (`facts`) and the tables (`rows_of` by name) say, or None of a run of another method."""
    if facts.get("method") != CROSSFIT:
        return None
    settings = facts["arguments"]["settings"]
    tunings, mixture = rows_of("tunings"), rows_of("mixture")
    names = [Recipe(**recipe).name for recipe in settings["recipes"]]
    judged = [row for row in rows_of("labels") if (row["stage"], row["split"]) == ("step", OUT_OF_FOLD)]
    return CrossFitView(
        recipes=tuple(_recipe(name, tunings, mixture) for name in names),
        folds=int(settings["folds"]),
        layers=tuple(dict.fromkeys(path.rpartition("/")[0] for path in facts["target"])),
        weights=next((int(row["weights"]) for row in tunings), None),
        offsets=tuple(OffsetView(row["label"], row["found"], row["taken"]) for row in mixture if row["label"] >= 0),
        frontier=tuple(_point(row) for row in rows_of("frontier")),
        promises=tuple(promise_of(row) for row in rows_of("promises")),
        judged=tuple(change_of(row) for row in judged),
        promised=bool(facts.get("promised")),
        confidence=float(facts["confidence"]),
        new_rows=int(settings["promise_rows"]),
        asked_step=settings["step"] is not None,
        stated=bool(facts["stated"]),
        notes=tuple(map(str, facts.get("notes") or ())),
    )


def _recipe(name: str, tunings: Sequence[Mapping[str, Any]], mixture: Sequence[Mapping[str, Any]]) -> RecipeView:
    columns = [column.name for column in fields(TuningView)]
    mine = tuple(TuningView(**{column: row[column] for column in columns}) for row in tunings if row["recipe"] == name)
    found, taken = next(((row["found"], row["taken"]) for row in mixture if row["name"] == name), (None, None))
    return RecipeView(name, mine, found, taken)


def _point(row: Mapping[str, Any]) -> PointView:
    values = {column.name: row[column.name] for column in fields(PointView)}
    gain = values["gain"]
    return PointView(**values | {"gain": None if gain is None or math.isnan(gain) else gain})  # NaN without rows
