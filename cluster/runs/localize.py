"""Localisation of the weights to blame, and checkpoints of a training: their weights, and what they predict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cluster.compute.compute import Compute
from cluster.runs.identity import fingerprints
from cluster.workers.model import ModelHandle
from engine.core.progress import Progress, unseen
from engine.data.image_set import ImageSet
from engine.layers.dense_chain import DenseChain
from engine.localize.fronts import Impact, Localisation, Sums
from engine.localize.neurecover import Blame, Training, blame
from engine.methods.base import Checkpoint
from engine.models.checkpoints import LAST_TWO, StoredCheckpoint, compared_files, read_checkpoints, unlike, with_weights
from engine.models.load import LoadedModel
from engine.problem.case import LayerInputs
from engine.targets.base import Target
from engine.targets.resolve import STATE


def localisation_sums(
    compute: Compute,
    handle: ModelHandle,
    negatives: ImageSet,
    positives: ImageSet | None,
    on_rows: Progress = unseen,
) -> tuple[Sums, Sums | None]:
    """The sums over negative rows and, where the target is judged by them, positive rows."""

    def sums(title: str, images: ImageSet) -> Sums:
        return compute.localisation_sums(handle, images, on_rows(title, images.rows))

    negative = sums("localize on negatives", negatives)
    if positives is None or not target_of_handle(handle).pooled:
        return negative, None
    return negative, sums("localize on positives", positives)


def localise(
    compute: Compute,
    handle: ModelHandle,
    negatives: ImageSet,
    positives: ImageSet | None = None,
    *,
    num_grad: int | None = None,
    impact: Impact = "mean",
    fronts: int = 1,
    on_rows: Progress = unseen,
) -> Localisation:
    """Find the weights to blame; `index` of the result are their places in the target.

    Args:
        compute: where.
        handle: of the model, with its weights under repair.
        negatives: rows the model gets wrong, at least one.
        positives: rows that must not break, which all targets but the last Dense layer are judged by too.
        num_grad: size of the pool of largest gradients; None takes 20 for each negative row.
        impact: forward impact as the mean over all negatives, or from the first row as the toolkit computes it.
        fronts: number of Pareto fronts.
        on_rows: progress of row passes.

    Raises:
        InputError: rows that cannot be read, or num_grad or fronts below 1.
        ValueError: the handle has no weights under repair.
    """
    target = target_of_handle(handle)
    negative, positive = localisation_sums(compute, handle, negatives, positives, on_rows)
    return target.localise(negative, positive, target.kernel, num_grad=num_grad, impact=impact, fronts=fronts)


def target_of_handle(handle: ModelHandle) -> Target:
    """The weights under repair of a model that is ready to run."""
    if handle.target is None:
        raise ValueError("the handle has no weights under repair, expected one made with a target")
    return handle.target


def blame_by_checkpoints(
    compute: Compute,
    model: LoadedModel,
    target: Target,
    chain: DenseChain,
    negatives: ImageSet,
    positives: ImageSet,
    folder: Path,
    *,
    last: tuple[int, int] = LAST_TWO,
    warn: Callable[[str], None],
    on_rows: Progress = unseen,
) -> Blame:
    """Find the weights of Dense layers that the last step of a training spoilt; see `engine.localize.neurecover`."""
    sets = (negatives, positives)
    earlier, later = checkpoints_of(compute, model, chain, folder, sets, last=last, warn=warn, on_rows=on_rows)
    handle = compute.handle(model, target)
    rows = LayerInputs.joined(
        [compute.layer_inputs(handle, images, on_rows("layer inputs", images.rows)) for images in sets]
    )
    order = rows.order
    rows = rows.take(order)
    training = Training(earlier.values, later.values, later.others, earlier.predicted[order], later.predicted[order])
    return blame(chain, rows.inputs, rows.labels, training)


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
