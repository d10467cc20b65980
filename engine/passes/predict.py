"""Predictions of many patches of the layer under repair, from its inputs."""

from __future__ import annotations

import numpy as np

from engine.core.types import Float32, Int64
from engine.fitness.rows import localised
from engine.layers.head import Head
from engine.passes.classes import NO_CLASS, scores_of

BLOCK_ELEMENTS = 1 << 24
"""Touched logits held at once: 64 MiB of float32."""


def predict_patched(
    head: Head, kernel: Float32, inputs: Float32, logits: Float32, index: Int64, values: Float32
) -> Int64:
    """Predict rows under patches of the same K kernel positions.

    As in `engine.fitness`, only the touched units move; the largest of the others is found once. NumPy needs 0.1 ms
    for a patch of a few weights on 5,000 rows, where compiling for the shapes of a patch would take 100 ms.

    Args:
        head: what follows the logits.
        kernel: (D, C) the patches were made against.
        inputs: (n, D) of the layer.
        logits: (n, C) under that kernel.
        index: (K, 2) kernel positions.
        values: (M, K) new values of M patches.

    Returns:
        Classes (M, n): argmax of the scores, first index on ties; `NO_CLASS` where the largest is no finite number.
    """
    features, weights = localised(kernel, index)
    read = np.ascontiguousarray(inputs[:, features])
    units, slot = np.unique(weights.unit, return_inverse=True)
    scores = _scores(head, logits)
    free = np.ones(logits.shape[1], dtype=bool)
    free[units] = False
    rest = np.where(free, scores, -np.inf)
    rest_class = rest.argmax(axis=1)
    rest_score = np.take_along_axis(rest, rest_class[:, None], axis=1)
    change = np.zeros((len(values), len(features), len(units)), dtype=np.float32)
    change[:, weights.feature, slot] = values - weights.old
    predicted = np.empty((len(values), len(inputs)), dtype=np.int64)
    step = max(1, BLOCK_ELEMENTS // max(1, len(inputs) * len(units)))
    for start in range(0, len(values), step):
        part = slice(start, start + step)
        with np.errstate(over="ignore", invalid="ignore"):  # such rows have no class
            moved = _scores(head, logits[:, units] + np.matmul(read, change[part]))
        best = moved.argmax(axis=2)
        score = np.take_along_axis(moved, best[:, :, None], axis=2)[:, :, 0]
        touched = units[best]
        wins = (score > rest_score[:, 0]) | ((score == rest_score[:, 0]) & (touched < rest_class))
        known = np.isfinite(np.maximum(score, rest_score[:, 0]))
        predicted[part] = np.where(known, np.where(wins, touched, rest_class), NO_CLASS)
    return predicted


def _scores(head: Head, logits: Float32) -> Float32:
    return logits if head.activation == "linear" else scores_of(head, logits)
