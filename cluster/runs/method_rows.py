"""The rows of repairs by methods, read once for all of them: as the first layer under repair sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.compute.compute import Compute
from cluster.runs.crossfit_rows import pass_of
from cluster.runs.shared_rows import KnownRows, check_shared_rows
from cluster.workers.model import ModelHandle
from engine.core.errors import InputError
from engine.core.progress import Progress
from engine.core.types import Float32
from engine.data.image_set import ImageSet
from engine.layers.dense_chain import DenseChain
from engine.methods.base import SeenRows
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
