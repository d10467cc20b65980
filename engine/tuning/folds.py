"""Folds of repair rows: every row is judged only by tunings that did not see it."""

from __future__ import annotations

import numpy as np

from engine.core.errors import InputError
from engine.core.rng import generator
from engine.core.types import Int64, Uint8


def folds_of(labels: Int64, digests: Uint8, folds: int, seed: int, data: str) -> Int64:
    """The stratified fold (n,), 0 to folds - 1, of rows with labels (n,) and digests (n, 16) of their pixels: a pure
    function of the arguments, of which `data` is the fingerprint of the rows.

    Rows that are equal in every pixel come into one fold, or one would be judged by a tuning that saw it. The rows of a
    label are dealt in random order, each label going on where the one before stopped, so folds differ by few rows.
    """
    if folds < 2:
        raise InputError(f"folds are {folds}, expected at least 2: rows are judged by tunings that did not see them")
    _, first, same = np.unique(digests, axis=0, return_index=True, return_inverse=True)
    same = same.reshape(-1)
    if len(first) < folds:
        raise InputError(f"{len(first)} different rows and {folds} folds, expected at least as many rows")
    fold = np.empty(len(first), np.int64)
    dealt = 0
    # In order of appearance: rows of a repair come by digest, see `engine.data.row_digests.row_order`.
    appearance = np.argsort(first, kind="stable")
    of_label = labels[first]
    for label in np.unique(labels):
        members = appearance[of_label[appearance] == label]
        order = generator(seed, data, int(label), "folds").permutation(len(members))
        fold[members[order]] = (dealt + np.arange(len(members))) % folds
        dealt += len(members)
    found: Int64 = fold[same]
    return found
