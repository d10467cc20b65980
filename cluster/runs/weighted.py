"""Patches of a model merged by a search of how much of each is taken, by the score of DistrRep on given rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cluster.compute.compute import Compute
from engine.core.errors import InputError
from engine.core.progress import Progress, unseen
from engine.core.rng import RngKey
from engine.core.types import Float64, Int64
from engine.data.image_set import ImageSet
from engine.methods.merging import Parts, scores_of_rows, search_merge
from engine.metrics.dist_rep import MergeScore
from engine.models.load import LoadedModel, check_fits
from engine.passes.classes import rows_of
from engine.patches.arrow import PlacedPatch
from engine.patches.patch import Patch, merge_rows
from engine.problem.case import LayerInputs
from engine.search.loop import SearchSettings
from engine.targets.resolve import resolve_target

SWARM_NUMBERS = 1 << 24
"""Coefficients of all particles at most: some arrays of 128 MiB."""


@dataclass(frozen=True, eq=False)
class WeightedMerge:
    model: LoadedModel  # that all patches were made for
    patches: Mapping[str, PlacedPatch]  # by name, at least one
    score: MergeScore  # of the result
    rows: tuple[ImageSet, ...]  # that it is counted on, all rows of each set
    settings: SearchSettings  # see `engine.methods.merging.search_merge`
    seed: int = 0
    apart: bool = False  # a weight that several patches change has a coefficient of its own


@dataclass(frozen=True, eq=False)
class WeightedReport:
    patch: Patch  # from the model to the merge; tensors that a patch covers whole stay whole
    coefficients: Float64  # (P,) of the patches, in [0, 1]
    shared: int  # weights that several patches change
    own: float  # score of the model as it is
    alone: tuple[float, ...]  # scores of the patches, each alone and whole
    score: float  # of the merge, no less than any of these
    labels: Int64  # (n,) true classes of the rows
    before: Int64  # (n,) predicted classes
    after: Int64


def merge_weighted(work: WeightedMerge, compute: Compute, on_rows: Progress = unseen) -> WeightedReport:
    """Search the coefficients of some patches."""
    model, swarm = work.model, work.settings.swarm
    fit = SWARM_NUMBERS // len(work.patches)
    if swarm.num_particles > fit:
        raise InputError(
            f"num_particles is {swarm.num_particles} and {len(work.patches)} patches are merged, expected at most {fit}"
        )
    totals = np.zeros(model.classes, np.int64)
    for images in work.rows:
        check_fits(images, model)
        totals += np.bincount(images.labels, minlength=model.classes)
    work.score.check_rows(totals, work.rows[0].path)
    paths = dict.fromkeys(path for placed in work.patches.values() for path in placed.patch.paths)
    if not any(len(placed.patch.changing()) for placed in work.patches.values()):
        raise InputError(f"{', '.join(work.patches)}: change no weight, expected patches that do")
    target = resolve_target(model.model, model.loss, model.classes, model.path, tuple(paths))
    handle, kernel = compute.handle(model, target), target.kernel
    layer = handle.runner.layer
    seen, classes = [], []
    for number, images in enumerate(work.rows):
        rows = compute.layer_inputs(handle, images, on_rows(f"rows {number + 1}", images.rows))
        with rows_of(images.path, 0, model.path):
            classes.append(layer.predicted(layer.logits(rows.inputs, kernel)))
        seen.append(rows)
    rows, before = LayerInputs.joined(seen), np.concatenate(classes)
    parts = Parts.of(
        kernel,
        [(target.index_of(placed.patch, name), placed.patch.new) for name, placed in work.patches.items()],
        apart=work.apart,
    )
    left = SWARM_NUMBERS // swarm.num_particles - len(work.patches)
    if left < len(parts.own):
        raise InputError(f"several patches change {len(parts.own)} weights, expected at most {left} apart")
    scores = scores_of_rows(layer, kernel, rows, parts, work.score)
    found = search_merge(parts, scores, work.settings, RngKey(work.seed, rows.fingerprint, -1))
    logits = layer.logits(rows.inputs, kernel)
    own, *alone = (score for score, *_ in found.starts)
    whole = [path for placed in work.patches.values() for path in placed.whole]
    return WeightedReport(
        patch=merge_rows([target.patch(parts.index, parts.old, found.values)], whole)[0],
        coefficients=found.coefficients[: len(work.patches)],
        shared=len(parts.shared),
        own=own,
        alone=tuple(alone),
        score=found.score[0],
        labels=rows.labels,
        before=before,
        after=layer.predict_patches(kernel, rows.inputs, logits, parts.index, found.values[None])[0],
    )
