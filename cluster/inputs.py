"""What a repair reads and where it writes: the chunks, checked before any work starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.compute import Compute, ModelHandle, Progress
from engine.core.errors import InputError
from engine.core.files import replace_directory
from engine.core.types import Int64
from engine.data.image_set import ImageSet, content_fingerprint
from engine.data.outcomes import open_negatives, open_positives
from engine.fitness.rows import SearchRows
from engine.layers.head import Head
from engine.localize.weights_file import localised_paths
from engine.models.load import LoadedModel, check_fits
from engine.passes.batching import predicted_classes
from engine.patches.patch import Patch
from engine.patches.save import repaired_path, save_patched
from engine.problem.case import case_fingerprint
from engine.targets.base import Target
from engine.targets.resolve import resolve_target

OnRows = Callable[[str, int], Progress]
"""Given a title and a number of rows, returns what to call with rows done."""


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
    """A chunk with failures.

    Attributes:
        paths: where it lies.
        negatives: rows the model gets wrong.
        positives: rows it gets right; None when there are none.
        index: (K, 2) int64, places of the localised weights in the target; K may be 0.
        label: true label of the negatives, -1 for several.
        data: SHA-256 over rows and positions; keys the random numbers.
    """

    paths: ChunkPaths
    negatives: ImageSet
    positives: ImageSet | None
    index: Int64
    label: int
    data: str


def target_of(model: LoadedModel, names: Sequence[str], folders: Sequence[Path]) -> Target:
    """The weights under repair: those that `localize` found in the folders of negatives, so that as little as can be of
    the model is behind the first of them; where it did not say, what is asked for by name.

    Raises:
        InputError: what was asked for does not exist, or is not what `localize` looked at.
    """
    asked = resolve_target(model.model, model.loss, model.classes, model.path, names)
    found: dict[str, Path] = {}
    for folder in folders:
        found |= {path: folder for path in localised_paths(folder) if path not in found}
    if not found:
        return asked
    if names and (others := [path for path in found if path not in asked.shapes]):
        raise InputError(
            f"{found[others[0]] / 'weights.arrow'}: is about {others[0]!r}, expected weights of {', '.join(names)}"
        )
    return resolve_target(model.model, model.loss, model.classes, model.path, tuple(found))


def open_chunk(paths: ChunkPaths, model: LoadedModel, target: Target) -> Chunk | None:
    """Open and check a chunk; None when its label has no failures.

    Raises:
        InputError: missing or damaged files, or rows or weights that do not fit the model.
    """
    negatives = open_negatives(paths.negatives)
    if negatives is None:
        return None
    positives = open_positives(paths.positives)
    sets = [each for each in (negatives, positives) if each is not None]
    for each in sets:
        check_fits(each, model)
    index = target.read_localised(paths.negatives)
    return chunk_of(paths, negatives, positives, index)


def chunk_of(paths: ChunkPaths, negatives: ImageSet, positives: ImageSet | None, index: Int64) -> Chunk:
    """The chunk of these rows and kernel positions (K, 2)."""
    labels = np.unique(negatives.labels)
    label = int(labels[0]) if len(labels) == 1 else -1
    sets = [each for each in (negatives, positives) if each is not None]
    data = case_fingerprint([content_fingerprint(each) for each in sets], index)
    return Chunk(paths, negatives, positives, index, label, data)


def check_output(output: Path, model: LoadedModel, *, overwrite: bool) -> None:
    """Refuse to replace the input model, or a folder that holds no repaired model.

    Raises:
        InputError: `output/repair` cannot be a folder or holds the input model; or it holds something that is no
            repaired model and `overwrite` is not given.
    """
    folder = output / "repair"
    found = next(each for each in (folder, *folder.parents) if each.exists())
    if not found.is_dir():
        raise InputError(f"{found} is a file, expected a folder, or none, for the repaired model {folder}")
    origin = model.path.resolve()
    if folder.resolve() in (origin, *origin.parents):
        raise InputError(f"{folder} holds the model to repair, expected another --output-dir")
    if overwrite or found != folder or not any(folder.iterdir()):
        return
    if not any((folder / name).is_file() for name in ("saved_model.pb", "model.h5", "model.keras")):
        raise InputError(
            f"{folder} holds no repaired model, expected another --output-dir, or --overwrite to replace it"
        )


def save_repaired(model: LoadedModel, patch: Patch, output: Path) -> Path:
    """Save a patched model and return its path; `repair/` is replaced as a whole.

    A model of another format that it held would make it ambiguous.
    """
    saved = repaired_path(model, output)
    if saved == output / "repair":
        save_patched(model, patch, saved, overwrite=True)
    else:
        with replace_directory(saved.parent) as folder:
            save_patched(model, patch, folder / saved.name)
    return saved


def search_rows(
    chunk: Chunk, columns: Int64 | None, handle: ModelHandle, compute: Compute, on_rows: OnRows | None
) -> SearchRows:
    """Run the model up to the layer under repair on all rows of a chunk; negatives come first."""
    parts = []
    for images, negative in ((chunk.negatives, True), (chunk.positives, False)):
        if images is not None:
            tick = on_rows("features", images.rows) if on_rows else None
            inputs, logits = compute.features(handle, images, columns, tick)
            parts.append((inputs, logits, images.labels, np.full(images.rows, negative)))
    inputs, logits, labels, negatives = (np.concatenate(column) for column in zip(*parts, strict=True))
    return SearchRows(inputs, logits, labels, negatives)


def held_out_rows(
    images: ImageSet,
    label: int,
    columns: Int64 | None,
    handle: ModelHandle,
    head: Head,
    compute: Compute,
    on_rows: OnRows | None,
) -> SearchRows:
    """Rows of a held-out set that a repair of `label` is about: its failures and everything the model gets right.

    Raises:
        InputError: the set has no failure of the label, or nothing that the model gets right.
    """
    tick = on_rows("validation", images.rows) if on_rows else None
    inputs, logits = compute.features(handle, images, columns, tick)
    right = predicted_classes(head, logits) == images.labels
    wrong = ~right if label < 0 else ~right & (images.labels == label)
    if not wrong.any() or not right.any():
        raise InputError(
            f"{images.path}: {int(wrong.sum())} failures of the label and {int(right.sum())} successes of the model, "
            "expected some of each to choose by"
        )
    kept = right | wrong
    return SearchRows(inputs[kept], logits[kept], images.labels[kept], wrong[kept])
