"""The rows of a CrossFit repair, read once for all labels under repair: features, logits, and what is held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from cluster.compute.compute import Compute
from cluster.runs.localize import target_of_handle
from cluster.runs.shared_rows import KnownRows, predict_held_out
from cluster.workers.model import ModelHandle
from engine.core.errors import InputError
from engine.core.progress import Progress
from engine.core.types import Float32, Int64
from engine.data.image_set import ImageSet
from engine.data.shared_rows import rows_among
from engine.layers.head import Head
from engine.passes.batching import predicted_classes
from engine.passes.classes import rows_of
from engine.problem.case import LayerInputs
from engine.problem.crossfit import HeldOutRows


@dataclass(frozen=True, eq=False)
class RepairRows:
    """What is known of rows before a run is recorded.

    Attributes:
        pooled: rows of the repair, one set after the other, as the first layer of the chain sees them.
        logits: (n, C) of the model as it is.
        head: what follows them.
        before: classes (n,) that it predicts for held-out rows, by split.
        validation: rows that join in judging, or None.
        unreadable: sets that were left out, and why.
    """

    pooled: LayerInputs
    logits: Float32
    head: Head
    before: Mapping[str, Int64]
    validation: HeldOutRows | None
    unreadable: Mapping[Path, str] = field(default_factory=dict)

    @cached_property
    def failing(self) -> tuple[int, ...]:
        """Labels of which the model gets a row wrong, ascending."""
        wrong = predicted_classes(self.head, self.logits) != self.pooled.labels
        return tuple(np.unique(self.pooled.labels[wrong]).tolist())

    @property
    def judged(self) -> Int64:
        """(C,) rows of each label that judge a repair: of its own and of validation."""
        counts: Int64 = np.bincount(self.pooled.labels, minlength=self.pooled.classes)
        if self.validation is not None:
            counts = counts + np.bincount(self.validation.labels, minlength=self.pooled.classes)
        return counts


def read_rows(
    compute: Compute,
    handle: ModelHandle,
    head: Head,
    sets: Sequence[ImageSet],
    held_out: Mapping[str, ImageSet],
    on_rows: Progress,
    *,
    allow_shared: bool,
    leave_out: bool = False,
) -> RepairRows:
    """Read rows and run the model over them.

    Args:
        compute: where.
        handle: the model, with the weights under repair.
        head: what follows its logits.
        sets: rows of the repair.
        held_out: rows that no tuning sees, by split.
        on_rows: progress of row passes.
        allow_shared: see `cluster.runs.shared_rows.check_shared_rows`.
        leave_out: leave out sets that cannot be read; else the first of them ends the repair.

    Raises:
        InputError: rows cannot be read, none can, or held-out rows are rows of the repair too.
        NotNumbersError: the model's outputs for a row are not numbers.
    """
    parts: dict[Path, tuple[LayerInputs, Float32]] = {}
    unreadable: dict[Path, str] = {}
    known_sets = [images for images in sets if images.rows]
    for images in known_sets:
        found = _pass_or_error(compute, handle, head, images, on_rows)
        if not isinstance(found, InputError):
            parts[images.path] = found
            continue
        unreadable[images.path] = str(found)
        if not leave_out or len(unreadable) == len(known_sets):
            raise found
    known = KnownRows({path: rows.digests for path, (rows, _) in parts.items()})
    before = predict_held_out(compute, handle, held_out, [known], on_rows, allow=allow_shared)
    validation = None
    if "validation" in held_out:
        judged, logits = pass_of(compute, handle, head, held_out["validation"], "validation", on_rows)
        # A row of the repair was seen by tunings, and a copy says nothing more.
        own = judged.distinct[~rows_among(judged.digests[judged.distinct], known.distinct)]
        if len(own):
            judged, logits = judged.take(own), logits[own]
            validation = HeldOutRows(judged.inputs, judged.labels, logits, predicted_classes(head, logits))
    return RepairRows(
        pooled=LayerInputs.joined([rows for rows, _ in parts.values()]),
        logits=np.concatenate([logits for _, logits in parts.values()]),
        head=head,
        before=before,
        validation=validation,
        unreadable=unreadable,
    )


def _pass_or_error(
    compute: Compute, handle: ModelHandle, head: Head, images: ImageSet, on_rows: Progress
) -> tuple[LayerInputs, Float32] | InputError:
    try:
        return pass_of(compute, handle, head, images, "features", on_rows)
    except InputError as error:
        return error


def pass_of(
    compute: Compute, handle: ModelHandle, head: Head, images: ImageSet, title: str, on_rows: Progress
) -> tuple[LayerInputs, Float32]:
    """Features and logits (n, C) of a set; raises NotNumbersError where those of a row are not numbers."""
    rows = compute.layer_inputs(handle, images, on_rows(title, images.rows))
    logits = handle.runner.layer.logits(rows.inputs, target_of_handle(handle).kernel)
    with rows_of(images.path, 0, handle.loaded.path):
        predicted_classes(head, logits)
    return rows, logits
