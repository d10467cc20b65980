"""The rows of repairs by methods, read once for all of them: as the first layer under repair sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from cluster.compute.compute import Compute
from cluster.runs.checkpoints import checkpoints_of
from cluster.runs.crossfit import warn_of_unseen
from cluster.runs.crossfit_rows import pass_of
from cluster.runs.shared_rows import KnownRows, check_shared_rows
from cluster.workers.model import ModelHandle
from engine.core.errors import InputError
from engine.core.progress import Progress
from engine.core.types import Float32
from engine.data.image_set import ImageSet
from engine.layers.dense_chain import DenseChain
from engine.layers.tail_chain import Chain, dense_of
from engine.methods.base import Checkpoint, MethodSettings, SeenRows, Subject, lacking
from engine.methods.registry import method_of
from engine.metrics.requirements import Requirement
from engine.models.load import LoadedModel
from engine.problem.case import LayerInputs


@dataclass(frozen=True, eq=False)
class MethodRows:
    """What is known of rows before a run is recorded.

    Attributes:
        pool: rows of the repair sets, one set after the other.
        sets: of those, the image sets that could be read.
        validation, test: held out, or None.
        unreadable: sets that were left out, and why.
    """

    pool: SeenRows
    sets: tuple[ImageSet, ...]
    validation: SeenRows | None
    test: SeenRows | None
    unreadable: dict[Path, str]


def read_method_rows(
    compute: Compute,
    handle: ModelHandle,
    chain: DenseChain,
    sets: Sequence[ImageSet],
    validation: ImageSet | None,
    test: ImageSet | None,
    on_rows: Progress,
    *,
    allow_shared: bool,
) -> MethodRows:
    """Read rows and run the model over them up to its chain.

    Args:
        compute: where.
        handle: the model, with the weights under repair.
        chain: the same as Dense layers.
        sets: repair rows; those that cannot be read are left out.
        validation, test: held out, or None.
        on_rows: progress of row passes.
        allow_shared: see `cluster.runs.shared_rows.check_shared_rows`.

    Raises:
        InputError: no repair set can be read, or held-out rows cannot, or are rows of the repair too.
        NotNumbersError: the model's outputs for a held-out row are not numbers.
    """
    parts: dict[Path, tuple[LayerInputs, Float32]] = {}
    unreadable: dict[Path, str] = {}
    known_sets = [images for images in sets if images.rows]
    if not known_sets:
        raise InputError("the repair sets hold no rows, expected some")
    for images in known_sets:
        try:
            parts[images.path] = pass_of(compute, handle, chain.head, images, "features", on_rows)
        except InputError as error:  # noqa: PERF203
            unreadable[images.path] = str(error)
            if len(unreadable) == len(known_sets):
                raise
    held_out = []
    for split, one in (("validation", validation), ("test", test)):
        held_out.append(None if one is None else pass_of(compute, handle, chain.head, one, split, on_rows))
    paths = [images.path for images in (validation, test) if images is not None]
    known = [
        KnownRows({path: rows.digests})
        for path, (rows, _) in zip(paths, (found for found in held_out if found is not None), strict=True)
    ]
    mine = KnownRows({path: rows.digests for path, (rows, _) in parts.items()})
    check_shared_rows(known, [mine], allow=allow_shared, warn=compute.warn)
    seen = [None if found is None else SeenRows.of(chain, *found) for found in held_out]
    pooled = LayerInputs.joined([rows for rows, _ in parts.values()])
    return MethodRows(
        pool=SeenRows.of(chain, pooled, np.concatenate([logits for _, logits in parts.values()])),
        sets=tuple(images for images in known_sets if images.path in parts),
        validation=seen[0],
        test=seen[1],
        unreadable=unreadable,
    )


class Asked(Protocol):
    """What is repaired, to which requirements."""

    @property
    def model(self) -> LoadedModel:
        """The model."""

    @property
    def chain(self) -> Chain:
        """Its layers under repair."""

    @property
    def repaired(self) -> tuple[int, ...]:
        """Labels under repair; none for all that have failures."""

    @property
    def requirements(self) -> tuple[Requirement, ...]:
        """Of the result."""

    @property
    def held_out(self) -> dict[str, ImageSet]:
        """Sets that no repair is made from, by split."""


def subject_of(
    rows: MethodRows,
    compute: Compute,
    asked: Asked,
    settings: MethodSettings,
    checkpoints: Path | None,
    last: tuple[int, int],
    on_rows: Progress,
) -> Subject:
    """What all repairs of a run share; labels under repair of which held-out rows tell nothing are told of.

    Args:
        rows: that were read.
        compute: where checkpoints run.
        asked: what is repaired.
        settings: of all methods.
        checkpoints: folder with checkpoints of the training, or None.
        last: which of them are compared, from the end.
        on_rows: progress of row passes.

    Raises:
        InputError: a label under repair has no rows, or no label has failures.
    """
    pool = rows.pool
    failing = np.unique(pool.labels[pool.before != pool.labels]).tolist()
    repaired = asked.repaired or tuple(failing)
    if not repaired:
        raise InputError("the model gets every repair row right, expected failures to repair")
    if missing := sorted(set(repaired) - set(pool.labels.tolist())):
        raise InputError(f"no repair row has label {missing[0]}, which is to be repaired, expected some")
    warn_of_unseen(repaired, asked.held_out, compute.warn)
    known: tuple[Checkpoint, ...] = ()
    error = ""
    if checkpoints is not None:
        try:
            known = checkpoints_of(
                compute,
                asked.model,
                dense_of(asked.chain),
                checkpoints,
                rows.sets,
                last=last,
                warn=compute.warn,
                on_rows=on_rows,
            )
        except InputError as found:  # those methods that need none can run
            error = str(found)
    return Subject(
        chain=dense_of(asked.chain),
        pool=pool,
        validation=rows.validation,
        test=rows.test,
        repaired=tuple(repaired),
        requirements=asked.requirements,
        settings=settings,
        checkpoints=known,
        checkpoints_error=error,
    )


def refuse_lacking(name: str, subject: Subject) -> None:
    """Refuse a method that is known to be of no use here, before anything is recorded.

    Raises:
        InputError: says why; or there is no such method.
    """
    if why := lacking(method_of(name), subject):
        raise InputError(why)
