"""What is told of a finished repair: reports for people, rows for the tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.compute.compute import Compute
from cluster.records.rows import change_rows, prediction_rows, requirement_cells, verdict_rows
from cluster.records.schema import FrontierRow, MixtureRow, PromiseRow
from cluster.records.store import RunRecords
from cluster.runs.chunk import ChunkPaths
from engine.core.progress import Progress, unseen
from engine.core.types import Int64
from engine.data.image_set import ImageSet
from engine.fitness.objective import Objective
from engine.methods.mixtures import Promised
from engine.metrics.accuracy import Comparison, LabelChange, compare
from engine.metrics.promise import Frontier
from engine.metrics.requirements import Requirement, Verdict, check_requirements, with_rows
from engine.models.load import LoadedModel, load_model
from engine.patches.patch import Patch


@dataclass(frozen=True, eq=False)
class Measured:
    """The reloaded repaired model against the base model on one set of rows.

    Attributes:
        split: negative, positive, validation or test.
        comparison: of both.
        images: the rows.
        before, after: (n,) classes that the base model and the repaired one predict.
    """

    split: str
    comparison: Comparison
    images: ImageSet
    before: Int64
    after: Int64

    @property
    def changes(self) -> tuple[LabelChange, ...]:
        """For each label with rows."""
        return self.comparison.changes()

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """Of the set, or None."""
        return self.images.label_names


@dataclass(frozen=True, eq=False)
class ChunkReport:
    """How one chunk ended.

    Attributes:
        paths: of the chunk.
        label: true label under repair, -1 for several or none.
        model: path of the repaired model.
        patch: what changed; empty when nothing did.
        job: name of the chosen search, or None.
        objective: numbers of rows and the positive weight of the search, or None.
        believed: (patched, intact) counts of the chosen search, or None.
        measured: on the saved model, loaded again.
        note: why there was nothing to search, or what validation warns of, or None.
    """

    paths: ChunkPaths
    label: int
    model: Path
    patch: Patch
    job: str | None
    objective: Objective | None
    believed: tuple[int, int] | None
    measured: tuple[Measured, ...]
    note: str | None


def compared(split: str, images: ImageSet, before: Int64, after: Int64) -> Measured:
    return Measured(split, compare(images.labels, before, after, images.classes), images, before, after)


def measure(
    compute: Compute,
    model: LoadedModel,
    saved: Path,
    sets: Mapping[str, tuple[ImageSet, Int64]],
    on_rows: Progress = unseen,
) -> tuple[Measured, ...]:
    """Load a repaired `model` again, and compare what it predicts for sets of rows with what the base model does."""
    reloaded = compute.handle(load_model(saved, allow_custom_code=model.allow_custom_code))
    found = []
    for split, (images, before) in sets.items():
        after = compute.predict(reloaded, images, on_rows(split, images.rows))
        found.append(compared(split, images, before, after))
    return tuple(found)


def record_verdicts(
    records: RunRecords, measured: Sequence[Measured], requirements: Sequence[Requirement]
) -> dict[str, tuple[Verdict, ...]]:
    """Verdicts by split on requirements that there are rows for, recorded with the predictions."""
    verdicts = {}
    for one in measured:
        found = verdicts[one.split] = check_requirements(with_rows(requirements, one.comparison), one.comparison)
        records.replace("verdicts", one.split, verdict_rows(one.split, found))
        told = prediction_rows(one.split, one.images.labels, one.before, one.after)
        records.replace("predictions", one.split, told)
    return verdicts


def label_rows(job: str, measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Rows of the table `labels`: before and after, for every set of rows and label."""
    return [row for one in measured for row in before_and_after(job, "repaired", one.split, one.changes)]


def before_and_after(job: str, stage: str, split: str, changes: Sequence[LabelChange]) -> list[dict[str, Any]]:
    """Rows of the table `labels`: each label of a set of rows before, and after at a stage."""
    rows = []
    for change in changes:
        base = LabelChange(change.label, change.total, change.correct_before, change.correct_before, 0, 0)
        rows += [*change_rows(job, "base", split, [base]), *change_rows(job, stage, split, [change])]
    return rows


def mixture_rows(promise: Promised) -> list[dict[str, Any]]:
    recipes, found = promise.fit.job.settings.recipes, promise.fit.found
    step = promise.frontier.point.step
    return [
        MixtureRow(
            position=position,
            kind="recipe" if position < len(recipes) else "offset",
            name=recipes[position].name if position < len(recipes) else "",
            label=-1 if position < len(recipes) else position - len(recipes),
            found=float(value),
            taken=float(np.float32(step) * value),
        ).cells
        for position, value in enumerate(found)
    ]


def frontier_rows(frontier: Frontier, repaired: Sequence[int]) -> list[dict[str, Any]]:
    rows = []
    for number, point in enumerate(frontier.points):
        others = [label for label in range(len(point.changes)) if label not in repaired]
        known = [label for label in others if np.isfinite(point.changes[label])]
        worst = min(known, key=lambda label: point.changes[label], default=-1)
        rows.append(
            FrontierRow(
                step=point.step,
                chance=point.chance,
                met=point.met,
                gain=float(np.mean([point.changes[label] for label in repaired])),
                all=point.all,
                worst=None if worst < 0 else float(point.changes[worst]),
                worst_label=worst,
                fixed=point.fixed,
                broken=point.broken,
                enough=point.enough,
                taken=number == frontier.chosen,
            ).cells
        )
    return rows


def promise_rows(frontier: Frontier) -> list[dict[str, Any]]:
    """Rows of the table `promises`, of the step that was taken."""
    return [
        PromiseRow(
            **{name: value for name, value in asdict(promise).items() if name != "requirement"},
            **requirement_cells(number, promise.requirement),
            promised=frontier.promised,
        ).cells
        for number, promise in enumerate(frontier.point.promises)
    ]


def unpromised(frontier: Frontier) -> list[str]:
    """A line where requirements are not promised."""
    if frontier.promised:
        return []
    chance, asked = math.floor(1000 * frontier.point.chance) / 10, 100 * frontier.confidence
    return [f"promise: all requirements together have a chance of {chance:.1f} %, asked were {asked:g} %"]
