"""The rows of repairs, read once for all of them: as the first layer under repair sees them, and what is held out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from cluster.compute.compute import Compute
from cluster.runs.checkpoints import checkpoints_of
from cluster.runs.localize import target_of_handle
from cluster.runs.shared_rows import KnownRows, check_shared_rows
from cluster.workers.model import ModelHandle
from engine.core.errors import InputError
from engine.core.names import listed
from engine.core.progress import Progress
from engine.core.types import Float32, Int64
from engine.data.image_set import ImageSet
from engine.data.row_digests import rows_among
from engine.layers.head import Head
from engine.layers.tail_chain import Chain, dense_of
from engine.methods.base import Checkpoint, MethodSettings, Subject
from engine.metrics.requirements import Requirement
from engine.models.load import LoadedModel
from engine.passes.classes import predicted_classes, rows_of
from engine.problem.case import LayerInputs, SeenRows


@dataclass(frozen=True, eq=False)
class RepairRows:
    """What is known of rows before a run is recorded."""

    pool: SeenRows  # rows of the repair sets, by digest and label
    order: Int64  # (n,) places of those in the sets, one set after the other
    sets: tuple[ImageSet, ...]  # those that could be read
    validation: SeenRows | None  # rows that choose or judge and are no copies, of one another or of the pool
    test: SeenRows | None  # rows that judge repairs, where their features were asked for
    before: Mapping[str, Int64]  # (n,) classes that the model predicts, by held-out split, in the order of the file
    unreadable: Mapping[Path, str] = field(default_factory=dict)  # sets that were left out, and why

    @cached_property
    def failing(self) -> tuple[int, ...]:
        """Labels of which the model gets a row wrong, ascending."""
        pool = self.pool
        return tuple(np.unique(pool.labels[pool.before != pool.labels]).tolist())

    @property
    def judged(self) -> Int64:
        """(C,) rows of each label that judge a repair: of its own and of validation."""
        classes = self.pool.rows.classes
        counts: Int64 = np.bincount(self.pool.labels, minlength=classes)
        return counts if self.validation is None else counts + np.bincount(self.validation.labels, minlength=classes)


def read_rows(
    compute: Compute,
    handle: ModelHandle,
    head: Head,
    sets: Sequence[ImageSet],
    held_out: Mapping[str, ImageSet],
    on_rows: Progress,
    *,
    allow_shared: bool,
    leave_out: bool = True,
    judging: Sequence[str] = ("validation",),
    measured: bool = True,
) -> RepairRows:
    """Read rows and run the model over them up to the layers under repair, whose logits `head` follows.

    Of the splits in `judging` features are wanted. Where a repaired model will be `measured` on held-out rows as a
    whole, so is the baseline model; else what it predicts follows from their features. Sets that cannot be read are
    left out with `leave_out`, if not all are.

    Raises:
        InputError: rows cannot be read, none can, or held-out rows are rows of the repair too.
        NotNumbersError: the model's outputs for a row are not numbers.
    """
    parts: dict[Path, tuple[LayerInputs, Float32]] = {}
    unreadable: dict[Path, str] = {}
    known_sets = [images for images in sets if images.rows]
    if not known_sets:
        raise InputError("the repair sets hold no rows, expected some")
    for images in known_sets:
        try:
            parts[images.path] = _pass(compute, handle, head, images, "features", on_rows)
        except InputError as error:  # noqa: PERF203
            unreadable[images.path] = str(error)
            if not leave_out or len(unreadable) == len(known_sets):
                raise
    known = KnownRows({path: rows.digests for path, (rows, _) in parts.items()})
    before, digests, seen = {}, [], {}
    for split, images in held_out.items():
        if split in judging:
            rows, logits = _pass(compute, handle, head, images, split, on_rows)
            seen[split] = SeenRows.of(head, rows, logits)
            before[split], found = seen[split].before, rows.digests
        if measured or split not in judging:
            before[split], found = compute.predict_and_digest(handle, images, on_rows(split, images.rows))
        digests.append(KnownRows({images.path: found}))
    check_shared_rows(digests, [known], allow=allow_shared, warn=compute.warn)
    pooled = LayerInputs.joined([rows for rows, _ in parts.values()])
    logits = np.concatenate([logits for _, logits in parts.values()])
    readable = set(parts)
    parts.clear()  # features are not held three times
    order = pooled.order
    return RepairRows(
        pool=SeenRows.of(head, pooled, logits).take(order),
        order=order,
        sets=tuple(images for images in known_sets if images.path in readable),
        validation=_new_rows(seen.get("validation"), known),
        test=seen.get("test"),
        before=before,
        unreadable=unreadable,
    )


def _new_rows(rows: SeenRows | None, known: KnownRows) -> SeenRows | None:
    """Rows that tell more: a row of the repair was seen by tunings, and a copy says nothing more."""
    if rows is None:
        return None
    own = rows.rows.distinct
    own = own[~rows_among(rows.rows.digests[own], known.distinct)]
    return rows.take(own) if len(own) else None


def _pass(
    compute: Compute, handle: ModelHandle, head: Head, images: ImageSet, title: str, on_rows: Progress
) -> tuple[LayerInputs, Float32]:
    """Features and logits (n, C) of a set; raises NotNumbersError where those of a row are not numbers."""
    rows = compute.layer_inputs(handle, images, on_rows(title, images.rows))
    logits = handle.runner.layer.logits(rows.inputs, target_of_handle(handle).kernel)
    with rows_of(images.path, 0, handle.loaded.path):
        predicted_classes(head, logits)
    return rows, logits


class Asked(Protocol):
    """What is repaired to which requirements: without labels under repair all that have failures are."""

    @property
    def model(self) -> LoadedModel: ...
    @property
    def chain(self) -> Chain: ...
    @property
    def repaired(self) -> tuple[int, ...]: ...
    @property
    def requirements(self) -> tuple[Requirement, ...]: ...
    @property
    def held_out(self) -> dict[str, ImageSet]: ...
    @property
    def checkpoints(self) -> Path | None: ...
    @property
    def last(self) -> tuple[int, int]: ...


def subject_of(
    rows: RepairRows, compute: Compute, asked: Asked, settings: MethodSettings, on_rows: Progress
) -> Subject:
    """What all repairs of a run share; labels under repair of which held-out rows tell nothing are told of.

    Raises:
        InputError: a label under repair has no rows.
    """
    repaired = asked.repaired or rows.failing
    if missing := sorted(set(repaired) - set(rows.pool.labels.tolist())):
        raise InputError(f"no repair row has label {missing[0]}, which is to be repaired, expected some")
    _warn_of_unseen(repaired, asked.held_out, compute.warn)
    known: tuple[Checkpoint, ...] = ()
    error = ""
    if asked.checkpoints is not None:
        try:
            in_files = checkpoints_of(
                compute,
                asked.model,
                dense_of(asked.chain),
                asked.checkpoints,
                rows.sets,
                last=asked.last,
                warn=compute.warn,
                on_rows=on_rows,
            )
            known = tuple(replace(one, predicted=one.predicted[rows.order]) for one in in_files)
        except InputError as found:  # those methods that need none can run
            error = str(found)
    return Subject(
        chain=asked.chain,
        pool=rows.pool,
        validation=rows.validation,
        test=rows.test,
        repaired=tuple(repaired),
        requirements=asked.requirements,
        settings=settings,
        checkpoints=known,
        checkpoints_error=error,
    )


def labels_without_rows(repaired: Sequence[int], images: ImageSet) -> list[int]:
    """Labels under repair without a row in a set, ascending."""
    return sorted(set(repaired) - set(np.unique(images.labels).tolist()))


def _warn_of_unseen(repaired: Sequence[int], held_out: Mapping[str, ImageSet], warn: Callable[[str], None]) -> None:
    """Say which labels under repair have no row in the held-out sets, by split, which tell nothing of them then."""
    for split, images in held_out.items():
        if lacking := labels_without_rows(repaired, images):
            labels, them = ("labels", "them") if len(lacking) > 1 else ("label", "it")
            warn(
                f"{images.path} has no rows of {labels} {listed(map(str, lacking))}, under repair: {split} rows tell "
                f"nothing of {them}"
            )
