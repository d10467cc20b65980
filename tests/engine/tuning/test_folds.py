"""Folds: a pure function of the rows, stratified, and rows with the same pixels in one fold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.errors import InputError
from engine.tuning.train import folds_of


def digests(pictures: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.stack([pictures, pictures], axis=1)).view(np.uint8).reshape(-1, 16)


def folds(labels: list[int], pictures: list[int], count: int, seed: int = 0, data: str = "rows") -> np.ndarray:
    return folds_of(np.array(labels), digests(np.array(pictures)), count, seed, data)


def spread(fold: np.ndarray, count: int) -> int:
    return int(np.ptp(np.bincount(fold, minlength=count)))


rows = st.lists(st.integers(0, 4), min_size=1, max_size=80)
counts = st.integers(2, 7)


@given(rows, counts, st.integers(-5, 2**40))
def test_every_label_is_dealt_evenly(labels, count, seed):
    pictures = np.random.default_rng(0).permutation(len(labels)) * 1000
    if len(labels) < count:
        with pytest.raises(InputError) as caught:
            folds(labels, pictures, count, seed)
        assert str(caught.value) == f"{len(labels)} different rows and {count} folds, expected at least as many rows"
        return
    fold = folds(labels, pictures, count, seed)
    assert (fold.dtype, fold.shape) == (np.int64, (len(labels),))
    assert set(fold) == set(range(count))
    assert spread(fold, count) <= 1
    for label in set(labels):
        assert spread(fold[np.array(labels) == label], count) <= 1  # so that few rows are in as many folds
    assert fold.tolist() == folds(labels, pictures, count, seed).tolist()
    assert fold.tolist() == folds(labels, -pictures, count, seed).tolist()  # other digests of as different pictures


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=60), counts)
def test_rows_with_the_same_pixels_are_in_one_fold(pairs, count):
    """Also where they have several labels: the first says where they go."""
    labels, pictures = [list(column) for column in zip(*pairs, strict=True)]
    first = {picture: label for label, picture in reversed(pairs)}
    if len(first) < count:
        with pytest.raises(InputError, match=f"^{len(first)} different rows and {count} folds, expected"):
            folds(labels, pictures, count)
        return
    fold = folds(labels, pictures, count)
    of_picture = dict(zip(pictures, fold, strict=True))
    assert [of_picture[picture] for picture in pictures] == fold.tolist()
    assert set(fold) == set(range(count))
    once = list(dict.fromkeys(pictures))
    assert [of_picture[picture] for picture in once] == folds([first[one] for one in once], once, count).tolist()


def test_seed_and_rows_choose_the_folds():
    labels, pictures = [0, 1] * 40, list(range(80))
    found = [
        folds(labels, pictures, 5, seed, data).tolist() for seed, data in [(0, "rows"), (1, "rows"), (0, "others")]
    ]
    assert len(set(map(tuple, found))) == 3
    # One label more takes nothing from the order of another's rows.
    more = folds([*labels, 2, 2], [*pictures, 98, 99], 5)
    assert more[:80].tolist() == found[0]
