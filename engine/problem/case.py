"""The case of one label of one chunk: its failures, what must not break, and the weights to blame.

It equals bit for bit what `target`, `localize` and `optimize` find through files. Negatives and positives each stand by
digest and label, so that the order of the rows of a chunk decides nothing.
"""

from __future__ import annotations

import functools
import hashlib
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.core.types import Float32, Int64, Uint8
from engine.data.row_digests import row_order, rows_fingerprint
from engine.fitness.rows import SearchRows, Weights
from engine.layers.head import Head
from engine.localize.fronts import Impact, Sums
from engine.passes.classes import classes_of, predicted_classes, scores_of
from engine.passes.runners import LayerPasses
from engine.passes.sizes import PASS_ROWS
from engine.targets.model_runner import ModelRunner


@dataclass(frozen=True, eq=False)
class LayerInputs:
    """Rows of an image set as the layer under repair sees them.

    Attributes:
        inputs: (n, D) float32.
        labels: (n,) int64.
        digests: (n, 16) uint8, of the pixels.
        shape: (h, w, c) of the images.
        classes: number of classes.
    """

    inputs: Float32
    labels: Int64
    digests: Uint8
    shape: tuple[int, ...]
    classes: int

    def take(self, rows: Int64) -> LayerInputs:
        """Some rows, in this order."""
        return LayerInputs(self.inputs[rows], self.labels[rows], self.digests[rows], self.shape, self.classes)

    @property
    def fingerprint(self) -> str:
        """As `engine.data.row_digests.content_fingerprint` of a file with these rows, whatever order they are in."""
        return rows_fingerprint(self.shape, self.classes, self.labels, self.digests)

    @property
    def order(self) -> Int64:
        """Rows (n,) as whatever depends on their order takes them: by digest, then by label."""
        return row_order(self.digests, self.labels)

    @property
    def distinct(self) -> Int64:
        """Rows (m,) in their `order`, without those that another one equals in every number and in its label."""
        order = self.order
        digests, labels = self.digests[order], self.labels[order]
        again = (digests[1:] == digests[:-1]).all(axis=1) & (labels[1:] == labels[:-1])
        first: Int64 = order[np.concatenate([np.ones(min(1, len(order)), bool), ~again])]
        return first

    @staticmethod
    def joined(parts: Sequence[LayerInputs]) -> LayerInputs:
        """All rows of several sets, one set after the other."""
        if len(parts) == 1:
            return parts[0]
        names = "inputs", "labels", "digests"
        inputs, labels, digests = (np.concatenate([getattr(part, name) for part in parts]) for name in names)
        return LayerInputs(inputs, labels, digests, parts[0].shape, parts[0].classes)


@dataclass(frozen=True, eq=False)
class SeenRows:
    """Labelled rows, and what the model as it is says of them."""

    rows: LayerInputs  # n rows, as the layers under repair see them
    logits: Float32  # (n, C) float32
    before: Int64  # (n,) predicted classes

    @staticmethod
    def of(head: Head, rows: LayerInputs, logits: Float32) -> SeenRows:
        """Rows with their logits; raises NotNumbersError where those of a row are not numbers."""
        return SeenRows(rows, logits, predicted_classes(head, logits))

    def take(self, chosen: Int64) -> SeenRows:
        """Some rows, in this order."""
        return SeenRows(self.rows.take(chosen), self.logits[chosen], self.before[chosen])

    @property
    def labels(self) -> Int64:
        """(n,) true classes."""
        return self.rows.labels


@dataclass(frozen=True, eq=False)
class RepairCase:
    """What a search of one label of one chunk works on.

    Attributes:
        label: true label of the negatives.
        data: SHA-256 over rows and positions; keys the random numbers.
        index: (K, 2) int64, kernel positions of the localised weights.
        weights: the same for the kernel of the search.
        rows: negatives first; of a mixture fold by fold.
    """

    label: int
    data: str
    index: Int64
    weights: Weights
    rows: SearchRows


def find_case(
    runner: ModelRunner,
    kernel: Float32,
    chunk: LayerInputs,
    label: int,
    more_positives: LayerInputs | None = None,
    *,
    num_grad: int | None = None,
    impact: Impact = "mean",
    fronts: int = 1,
) -> RepairCase | None:
    """Find rows right and wrong, and the weights to blame.

    Args:
        runner: of the model, with the weights under repair.
        kernel: (D, C) or (W, 1), of the model under repair.
        chunk: repair rows, in any order.
        label: under repair.
        more_positives: further rows; those the model gets right must not break either.
        num_grad: size of the pool of `engine.localize.fronts.localize`.
        impact: kind of forward impact.
        fronts: number of Pareto fronts.

    Returns:
        None where the model gets all rows of the label right.

    Raises:
        NotNumbersError: the model's outputs for a row of the chunk are not numbers.
    """
    target, layer = runner.target, runner.layer
    logits = layer.logits(chunk.inputs, kernel)
    order = chunk.order
    right = (layer.predicted(logits) == chunk.labels)[order]
    failures, successes = order[~right & (chunk.labels[order] == label)], order[right]
    if not len(failures):
        return None
    negatives = chunk.take(failures)
    kept, kept_logits = chunk.take(successes), logits[successes]
    if more_positives is not None:
        more_logits = layer.logits(more_positives.inputs, kernel)
        more = np.flatnonzero(classes_of(scores_of(layer.head, more_logits)) == more_positives.labels)
        kept = LayerInputs.joined([kept, more_positives.take(more)])
        order = kept.order
        kept, kept_logits = kept.take(order), np.concatenate([kept_logits, more_logits[more]])[order]
    sums = _sums(layer, kernel, negatives, logits[failures])
    others = _sums(layer, kernel, kept, kept_logits) if target.pooled and len(kept.labels) else None
    index = target.localise(sums, others, kernel, num_grad=num_grad, impact=impact, fronts=fronts).index
    return case_of(runner, kernel, label, index, negatives, kept, np.concatenate([logits[failures], kept_logits]))


def case_of(
    runner: ModelRunner,
    kernel: Float32,
    label: int,
    index: Int64,
    negatives: LayerInputs,
    kept: LayerInputs,
    logits: Float32,
    places: Int64 | None = None,
) -> RepairCase:
    """The search of weights at K places (K, 2) on negatives and what must not break, with logits (n, C) of both.

    `places` tell the weights apart where `index` does not.
    """
    features, weights = runner.target.search_weights(kernel, index)
    rows = LayerInputs.joined([negatives, kept])
    searched = SearchRows(
        inputs=rows.inputs if features is None else np.ascontiguousarray(rows.inputs[:, features]),
        logits=logits,
        labels=rows.labels,
        negative=np.arange(len(rows.labels)) < len(negatives.labels),
    )
    sets = [inputs.fingerprint for inputs in (negatives, kept) if len(inputs.labels)]
    data = case_fingerprint(sets, index if places is None else places)
    return RepairCase(label, data, index, weights, searched)


def _sums(layer: LayerPasses, kernel: Float32, rows: LayerInputs, logits: Float32) -> Sums:
    """The sums of localisation over rows with logits (n, C), block by block."""
    blocks = (slice(start, start + PASS_ROWS) for start in range(0, len(rows.labels), PASS_ROWS))
    parts: Any = (
        layer.localisation_sums(rows.inputs[block], logits[block], rows.labels[block], kernel) for block in blocks
    )
    found: Sums = functools.reduce(operator.add, parts)
    return found


def case_fingerprint(sets: Sequence[str], index: Int64) -> str:
    """SHA-256 over the fingerprints of negatives and positives, and the positions (K, 2) of the weights."""
    return hashlib.sha256("|".join([*sets, index.tobytes().hex()]).encode()).hexdigest()
