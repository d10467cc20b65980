"""The rows of repairs, read once for all of them: as the first layer under repair sees them, and what is held out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cluster.compute.compute import Compute
from cluster.runs.identity import fingerprints, run_facts
from cluster.runs.localize import checkpoint_facts, checkpoints_of, target_of_handle
from cluster.runs.shared_rows import KnownRows, check_shared_rows, held_out_sets
from cluster.workers.model import ModelHandle
from cluster.workers.origins import foreign_origins
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
from engine.targets.base import Target


@dataclass(frozen=True, eq=False, kw_only=True)
class Asked:
    """What is repaired on which rows, to which requirements."""

    model: LoadedModel  # to repair
    target: Target  # its weights under repair, whose features are cached
    chain: Chain  # the same as what methods change
    rows: tuple[ImageSet, ...]  # of the repair
    repaired: tuple[int, ...]  # labels under repair; none for all that have failures
    requirements: tuple[Requirement, ...]  # of the result
    stated: bool  # the user stated them
    settings: MethodSettings  # of the method, or of all
    validation: ImageSet | None  # rows that choose, or join in judging
    test: ImageSet | None  # rows that only measure
    output: Path
    allow_shared_rows: bool = False  # as of `cluster.runs.optimize.Repairs`
    checkpoints: Path | None = None  # folder with checkpoints of the training
    last: tuple[int, int] = (2, 1)  # which of them are compared, from the end

    @property
    def held_out(self) -> dict[str, ImageSet]:
        """Sets that no repair is made from, by split."""
        return held_out_sets(self.validation, self.test)


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
    work: Asked,
    compute: Compute,
    handle: ModelHandle,
    on_rows: Progress,
    *,
    leave_out: bool = True,
    by_features: bool = False,
) -> RepairRows:
    """Read rows and run the model over them up to the layers under repair.

    A repaired model will be measured on held-out rows as a whole, so the baseline model is too; `by_features` what it
    predicts follows from their features. Sets that cannot be read are left out with `leave_out`, if not all are.
    """
    head = work.chain.head
    parts: dict[Path, tuple[LayerInputs, Float32]] = {}
    unreadable: dict[Path, str] = {}
    known_sets = [images for images in work.rows if images.rows]
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
    for split, images in work.held_out.items():
        if split == "validation" or by_features:
            rows, logits = _pass(compute, handle, head, images, split, on_rows)
            seen[split] = SeenRows.of(head, rows, logits)
            before[split], found = seen[split].before, rows.digests
        if not by_features:
            before[split], found = compute.predict_and_digest(handle, images, on_rows(split, images.rows))
        digests.append(KnownRows({images.path: found}))
    check_shared_rows(digests, [known], allow=work.allow_shared_rows, warn=compute.warn)
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


def subject_of(rows: RepairRows, compute: Compute, asked: Asked, on_rows: Progress) -> Subject:
    """What all repairs of a run share; labels under repair of which held-out rows tell nothing are told of."""
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
        settings=asked.settings,
        checkpoints=known,
        checkpoints_error=error,
    )


def method_facts(
    work: Asked,
    subject: Subject,
    rows: RepairRows,
    compute: Compute,
    methods: Sequence[str],
    settings: Mapping[str, Any],
    identity: Mapping[str, Any],
    arguments: Mapping[str, Any],
) -> dict[str, Any]:
    """What `run.json` says of a run by methods; `identity` and `arguments` are what only runs of its kind have.

    Of checkpoints that cannot be read it has the reason, as has the row of a method that needs them.
    """
    error = subject.checkpoints_error
    shared = {
        "labels": list(subject.repaired),
        "settings": settings,
        "requirements": [requirement.text for requirement in work.requirements],
        "data": subject.pool.rows.fingerprint,
        "checkpoints": {"error": error} if error else checkpoint_facts(work.checkpoints, work.last),
        "foreign methods": foreign_origins(methods),
        "held-out data": fingerprints({split: images.path for split, images in work.held_out.items()}),
    }
    named = [*work.held_out.values(), *work.rows]
    return {
        **run_facts(work.model, work.target, compute, work.held_out, named, {**identity, **shared}),
        "labels": shared["labels"],
        "requirements": shared["requirements"],
        "stated": work.stated,
        "confidence": work.settings.crossfit.confidence,
        "arguments": {"settings": settings, **arguments, "compute": asdict(compute.options)},
        "left out": {str(path): why for path, why in rows.unreadable.items()},
    }


def labels_without_rows(repaired: Sequence[int], images: ImageSet) -> list[int]:
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
