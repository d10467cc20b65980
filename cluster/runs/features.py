"""The rows of a search: what the model says of them up to the layer under repair."""

from __future__ import annotations

import numpy as np

from cluster.compute.compute import Compute
from cluster.runs.chunk import Chunk
from cluster.workers.model import ModelHandle
from engine.core.errors import InputError
from engine.core.progress import Progress
from engine.core.types import Int64
from engine.data.image_set import ImageSet
from engine.data.row_digests import row_order
from engine.fitness.rows import SearchRows
from engine.layers.head import Head
from engine.passes.classes import predicted_classes


def search_rows(
    chunk: Chunk, features: Int64 | None, handle: ModelHandle, compute: Compute, on_rows: Progress
) -> SearchRows:
    """Run the model up to the layer under repair on all rows of a chunk.

    Negatives come first; each stand as `Chunk.orders` says.
    """
    parts = []
    for images, negative in ((chunk.negatives, True), (chunk.positives, False)):
        if images is not None:
            order = chunk.orders[images.path]
            inputs, logits, _ = compute.features(handle, images, features, on_rows("features", images.rows))
            parts.append((inputs[order], logits[order], images.labels[order], np.full(images.rows, negative)))
    inputs = np.concatenate([part[0] for part in parts])
    logits = np.concatenate([part[1] for part in parts])
    labels = np.concatenate([part[2] for part in parts])
    negatives = np.concatenate([part[3] for part in parts])
    return SearchRows(inputs, logits, labels, negatives)


def held_out_rows(
    images: ImageSet,
    label: int,
    features: Int64 | None,
    handle: ModelHandle,
    head: Head,
    compute: Compute,
    on_rows: Progress,
) -> SearchRows:
    """Rows of a held-out set that a repair of `label` is about: its failures and everything the model gets right.

    They stand by digest and label.

    Raises:
        InputError: the set has no failure of the label, or nothing that the model gets right.
    """
    tick = on_rows("validation", images.rows)
    inputs, logits, digests = compute.features(handle, images, features, tick)
    right = predicted_classes(head, logits) == images.labels
    wrong = ~right if label < 0 else ~right & (images.labels == label)
    if not wrong.any() or not right.any():
        raise InputError(
            f"{images.path}: {int(wrong.sum())} failures of the label and {int(right.sum())} successes of the model, "
            "expected some of each to choose by"
        )
    order = row_order(digests, images.labels)
    kept = order[(right | wrong)[order]]
    return SearchRows(inputs[kept], logits[kept], images.labels[kept], wrong[kept])
