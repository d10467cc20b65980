from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.row_digests import distinct_rows, row_digests, row_order, rows_among, rows_fingerprint, shared_rows
from tests.engine.data.test_image_set import pixels

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


@settings(max_examples=60)
@given(st.data(), st.integers(1, 12))
def test_the_digest_of_a_row_is_of_its_pixels_alone(data: st.DataObject, count: int) -> None:
    images = pixels(count)
    whole = row_digests(images)
    assert whole.shape == (count, 16)
    assert whole.dtype == np.uint8
    assert len({row.tobytes() for row in whole}) == count
    order = np.array(data.draw(st.permutations(range(count))))
    cut = data.draw(st.integers(0, count))
    parts = [row_digests(images[order][part]) for part in (slice(0, cut), slice(cut, None)) if len(order[part])]
    assert np.array_equal(np.concatenate(parts), whole[order])
    flat = tuple(data.draw(st.integers(0, size - 1)) for size in images.shape)
    changed = images.copy()
    changed[flat] = np.nextafter(changed[flat], np.float32(9))
    different = (row_digests(changed) != whole).any(axis=1)
    assert np.flatnonzero(different).tolist() == [flat[0]]


def test_digests_are_of_values_however_they_lie_in_memory() -> None:
    images = pixels(5)
    expected = row_digests(images)
    for same in (
        images.astype(">f4"),
        images.astype("float64"),
        np.asfortranarray(images),
        images[:, :, :, ::-1][..., ::-1],
    ):
        assert np.array_equal(row_digests(same), expected)
    assert np.array_equal(row_digests(images.reshape(5, 24, 1, 1)), expected)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=12), st.data())
def test_the_order_of_rows_decides_nothing(rows: list[tuple[int, int]], data: st.DataObject) -> None:
    """By digest, then by label, with copies; the slow formula sorts bytes."""
    digests = row_digests(pixels(4))[[row for row, _ in rows]].reshape(-1, 16)
    labels = np.array([label for _, label in rows], np.int64)
    order = row_order(digests, labels)
    keys = [(digest.tobytes(), label) for digest, label in zip(digests, labels, strict=True)]
    assert [keys[row] for row in order] == sorted(keys)
    assert sorted(order.tolist()) == list(range(len(rows)))
    moved = np.array(data.draw(st.permutations(range(len(rows)))), np.int64)
    again = rows_fingerprint((4, 3, 2), 5, labels[moved], digests[moved])
    assert again == rows_fingerprint((4, 3, 2), 5, labels, digests)


def test_what_the_fingerprint_of_rows_tells_apart() -> None:
    labels = np.arange(6) % 5
    digests = row_digests(pixels(6))
    other = labels.copy()
    other[3] = 0
    seen = {
        rows_fingerprint((4, 3, 2), 5, labels, digests),
        rows_fingerprint((3, 4, 2), 5, labels, digests),
        rows_fingerprint((4, 3, 2), 6, labels, digests),
        rows_fingerprint((4, 3, 2), 5, other, digests),
        rows_fingerprint((4, 3, 2), 5, labels, digests[::-1].copy()),
        rows_fingerprint((4, 3, 2), 5, labels[:5], digests[:5]),
        rows_fingerprint((4, 3, 2), 5, labels[:0], digests[:0]),
    }
    assert len(seen) == 7
