"""One chunk of repair data, checked before any work starts, and what the model says of its rows up to the layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from cluster.compute.compute import Compute
from cluster.runs.shared_rows import KnownRows
from cluster.workers.model import ModelHandle
from engine.core.errors import InputError
from engine.core.progress import Progress
from engine.core.types import Int64
from engine.data.image_set import ImageSet
from engine.data.outcomes import open_negatives, open_positives
from engine.data.row_digests import content_fingerprint, row_order, set_digests
from engine.fitness.rows import SearchRows
from engine.layers.head import Head
from engine.localize.weights_file import CSV, localised_paths, read_rows
from engine.models.load import LoadedModel, check_fits
from engine.passes.classes import predicted_classes
from engine.problem.case import case_fingerprint
from engine.targets.base import Target
from engine.targets.resolve import dense_names, resolve_target


@dataclass(frozen=True)
class ChunkPaths:
    """Where one chunk's input lies and its output goes.

    Attributes:
        negatives: a folder like `negative/6`, with the `weights.csv` or `weights.arrow` of `localize`.
        positives: a folder like `positive`.
        output: gets the weights with their new values and the repaired model.
    """

    negatives: Path
    positives: Path
    output: Path


@dataclass(frozen=True, eq=False)
class Chunk:
    paths: ChunkPaths
    negatives: ImageSet  # rows the model gets wrong
    positives: ImageSet | None  # rows it gets right; None when there are none
    index: Int64  # (K, 2) places of the localised weights in the target; K may be 0
    label: int  # true label of the negatives, -1 for several
    data: str  # SHA-256 over rows and positions, whatever order the rows are in; keys the random numbers
    known: KnownRows  # the rows by their digests

    @property
    def sets(self) -> dict[str, ImageSet]:
        """Those that there are, by split."""
        sets = {"negative": self.negatives, "positive": self.positives}
        return {split: images for split, images in sets.items() if images is not None}

    @cached_property
    def orders(self) -> dict[str, Int64]:
        """Rows of each set by digest and label."""
        digests = self.known.digests
        return {split: row_order(digests[images.path], images.labels) for split, images in self.sets.items()}

    def in_files(self, classes: Int64) -> dict[str, Int64]:
        """Classes (n,) of the rows of a search, see `search_rows`, by split and in the order of the files."""
        found, start = {}, 0
        for split, order in self.orders.items():
            found[split] = np.empty_like(order)
            found[split][order] = classes[start : start + len(order)]
            start += len(order)
        return found


def target_of(model: LoadedModel, names: Sequence[str], folders: Sequence[Path]) -> Target:
    """The weights under repair: those that `localize` found in the folders of negatives, so that as little as can be of
    the model is behind the first of them; where it did not say, what is asked for by name, or else the Dense layers
    that the toolkit's `weights.csv` is about.

    Raises:
        InputError: what was asked for does not exist, or is not what `localize` looked at.
    """
    asked = resolve_target(model.model, model.loss, model.classes, model.path, names)
    found: dict[str, Path] = {}
    for folder in folders:
        found |= {path: folder for path in localised_paths(folder) if path not in found}
    if not found:
        dense = () if names else dense_names(model.model, _layers_of(folders))
        return resolve_target(model.model, model.loss, model.classes, model.path, dense) if dense else asked
    if names and (others := [path for path in found if path not in asked.shapes]):
        raise InputError(
            f"{found[others[0]] / 'weights.arrow'}: is about {others[0]!r}, expected weights of {', '.join(names)}"
        )
    return resolve_target(model.model, model.loss, model.classes, model.path, tuple(found))


def _layers_of(folders: Sequence[Path]) -> set[int]:
    """The layers, by the toolkit's numbers, that the `weights.csv` of some folders are about."""
    paths = [path for folder in folders if (path := folder / CSV).is_file()]
    return {layer for path in paths for _, (layer, _, _) in read_rows(path)}


def open_chunk(paths: ChunkPaths, model: LoadedModel, target: Target) -> Chunk | None:
    """Open and check a chunk; None when its label has no failures."""
    negatives = open_negatives(paths.negatives)
    if negatives is None:
        return None
    positives = open_positives(paths.positives)
    sets = [images for images in (negatives, positives) if images is not None]
    for images in sets:
        check_fits(images, model)
    index = target.read_localised(paths.negatives)
    return chunk_of(paths, negatives, positives, index)


def chunk_of(paths: ChunkPaths, negatives: ImageSet, positives: ImageSet | None, index: Int64) -> Chunk:
    labels = np.unique(negatives.labels)
    label = int(labels[0]) if len(labels) == 1 else -1
    sets = [images for images in (negatives, positives) if images is not None]
    known = KnownRows({images.path: set_digests(images) for images in sets})
    data = case_fingerprint([content_fingerprint(images, known.digests[images.path]) for images in sets], index)
    return Chunk(paths, negatives, positives, index, label, data, known)


def search_rows(
    chunk: Chunk, features: Int64 | None, handle: ModelHandle, compute: Compute, on_rows: Progress
) -> SearchRows:
    """Run the model up to the layer under repair on all rows of a chunk.

    Negatives come first; each stand as `Chunk.orders` says.
    """
    parts = []
    for split, images in chunk.sets.items():
        order = chunk.orders[split]
        inputs, logits, _ = compute.features(handle, images, features, on_rows("features", images.rows))
        parts.append((inputs[order], logits[order], images.labels[order], np.full(images.rows, split == "negative")))
    return SearchRows(*(np.concatenate(each) for each in zip(*parts, strict=True)))


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
