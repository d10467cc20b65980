"""Checkpoints of a training as methods compare them: their weights, and what they predict for the rows of a repair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cluster.compute.compute import Compute
from cluster.runs.identity import fingerprints
from engine.core.progress import Progress, unseen
from engine.data.image_set import ImageSet
from engine.layers.dense_chain import DenseChain
from engine.methods.base import Checkpoint
from engine.models.checkpoints import LAST_TWO, StoredCheckpoint, compared_files, read_checkpoints, unlike, with_weights
from engine.models.load import LoadedModel
from engine.targets.resolve import STATE


def checkpoint_facts(folder: Path | None, last: tuple[int, int]) -> dict[str, str]:
    """SHA-256 of the two checkpoints that are compared, by file name; none without a folder."""
    if folder is None:
        return {}
    return fingerprints({file.path.name: file.path for file in compared_files(folder, last)})


def checkpoints_of(
    compute: Compute,
    model: LoadedModel,
    chain: DenseChain,
    folder: Path,
    sets: Sequence[ImageSet],
    *,
    last: tuple[int, int] = LAST_TWO,
    warn: Callable[[str], None],
    on_rows: Progress = unseen,
) -> tuple[Checkpoint, Checkpoint]:
    """Read two checkpoints of a model, and predict all rows with all weights of each; the earlier one comes first."""
    stored = read_checkpoints(folder, model, last)
    if words := unlike(stored[-1], model):
        warn(f"{words}; weights are blamed as they are in the model")
    predicted = [_predicted(compute, model, checkpoint, sets, on_rows) for checkpoint in stored]
    first, second = (
        Checkpoint(
            checkpoint.path.name,
            {path: np.asarray(checkpoint.values[path], np.float32) for path in chain.values},
            classes,
            _moved(chain, before, checkpoint),
        )
        for before, checkpoint, classes in zip((None, stored[0]), stored, predicted, strict=True)
    )
    return first, second


def _predicted(
    compute: Compute, model: LoadedModel, checkpoint: StoredCheckpoint, sets: Sequence[ImageSet], on_rows: Progress
) -> np.ndarray:
    handle = compute.handle(with_weights(model, checkpoint))
    title = f"predict by {checkpoint.path.name}"
    return np.concatenate([compute.predict(handle, images, on_rows(title, images.rows)) for images in sets])


def _moved(chain: DenseChain, before: StoredCheckpoint | None, after: StoredCheckpoint) -> float:
    if before is None:
        return 0.0
    others = [path for path in after.values if path not in chain.values and path.rsplit("/", 1)[-1] not in STATE]
    pairs = ((np.float64(before.values[path]), np.float64(after.values[path])) for path in others)
    return float(sum(np.abs(new - old).mean() for old, new in pairs if new.size))
