from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.image_set import row_digests
from engine.data.shared_rows import distinct_rows, rows_among, shared_rows

SMALL = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=12)


def digests(rows: list[tuple[int, int]]) -> np.ndarray:
    """Digests (n, 16) that differ in their first and their last byte alone, where a zero is no end."""
    found = np.zeros((len(rows), 16), np.uint8)
    for number, (first, last) in enumerate(rows):
        found[number, 0], found[number, -1] = first, last
    return found


@settings(max_examples=200)
@given(SMALL, SMALL)
def test_as_sets_of_python(first: list[tuple[int, int]], second: list[tuple[int, int]]) -> None:
    found = shared_rows(distinct_rows(digests(first)), distinct_rows(digests(second)))
    common = set(first) & set(second)
    assert len(found.keys) == len(common)
    assert found.smaller == min(len(set(first)), len(set(second)))
    assert found.share == (len(common) / found.smaller if found.smaller else 0)
    assert rows_among(digests(first), found.keys).tolist() == [row in common for row in first]


def test_of_pictures() -> None:
    images = np.random.default_rng(0).random((60, 4, 4, 1), np.float32)
    first, second = images[:40], images[[50, 3, 3, 39, 41]]
    found = shared_rows(distinct_rows(row_digests(first)), distinct_rows(row_digests(second)))
    assert (len(found.keys), found.smaller, found.share) == (2, 4, 0.5)
