"""Patches: what they do to arrays, by hand and against loops over dictionaries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from engine.core.errors import InputError
from engine.patches.patch import (
    NO_CHANGE,
    Patch,
    applied,
    compose,
    conflicts,
    merge,
    merge_rows,
    patch_between,
    revert,
)

Key = tuple[str, int]
SIZES = {"b/kernel": 4, "a/kernel": 3, "a/bias": 1}
PLACES = [(path, place) for path, size in SIZES.items() for place in range(size)]
NAN = np.array([0x7FC00000], np.uint32).view(np.float32)[0]
OTHER_NAN = np.array([0x7FC00001], np.uint32).view(np.float32)[0]

# Any 32 bits, so every NaN, both zeros and denormals; a few of them often, so that values meet.
WORDS = st.one_of(st.sampled_from([0, 1 << 31, 0x3F800000, 0x7FC00000, 0x7FC00001]), st.integers(0, 2**32 - 1))
BASES = st.fixed_dictionaries(dict.fromkeys(PLACES, WORDS))
CHANGES = st.dictionaries(st.sampled_from(PLACES), WORDS, max_size=len(PLACES))


def patch_of(rows: Sequence[tuple[str, int, Any, Any]]) -> Patch:
    """A patch of (weight, flat index, old, new) rows."""
    weight, flat, old, new = zip(*rows, strict=True) if rows else ((),) * 4
    return Patch(weight, np.array(flat, np.int64), np.array(old, np.float32), np.array(new, np.float32))


def rows_of(patch: Patch) -> list[tuple[str, int, int, int]]:
    """The rows of a patch, with the bits of its values."""
    assert patch.flat_index.dtype == np.int64
    assert patch.old.dtype == patch.new.dtype == np.float32
    columns = (patch.flat_index, patch.old.view(np.uint32), patch.new.view(np.uint32))
    return list(zip(patch.weight, *(column.tolist() for column in columns), strict=True))


def changing(base: dict[Key, int], changes: dict[Key, int]) -> Patch:
    """The patch that sets the bits of some places, in the order of `changes`, from those of `base`."""
    floats = [np.array([words[key] for key in changes], np.uint32).view(np.float32) for words in (base, changes)]
    weight, flat = [path for path, _ in changes], [place for _, place in changes]
    return Patch(tuple(weight), np.array(flat, np.int64), *floats)


def values_of(base: dict[Key, int]) -> dict[str, np.ndarray]:
    """One array per weight that holds the bits of `base`."""
    return {
        path: np.array([base[path, place] for place in range(size)], np.uint32).view(np.float32)
        for path, size in SIZES.items()
    }


def after(patch: Patch, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {path: applied(patch, path, array) for path, array in values.items()}


def same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    return all(left[path].tobytes() == right[path].tobytes() for path in SIZES)


def test_what_lies_between_two_arrays() -> None:
    old = np.array([[1.0, 0.0, NAN], [2.0, NAN, -3.0]], np.float32)
    new = np.array([[1.0, -0.0, NAN], [2.5, OTHER_NAN, -3.0]], np.float32)
    patch = patch_between("a/kernel", old, new)
    assert rows_of(patch) == [
        ("a/kernel", 1, 0, 0x80000000),
        ("a/kernel", 3, 0x40000000, 0x40200000),
        ("a/kernel", 4, 0x7FC00000, 0x7FC00001),
    ]
    assert len(patch_between("a/kernel", old, old.copy())) == 0


@given(st.data())
def test_a_patch_leads_from_one_array_to_the_other(data: st.DataObject) -> None:
    shape = data.draw(arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    words = arrays.arrays(np.uint32, shape, elements=WORDS)
    old = np.asarray(data.draw(words)).view(np.float32)
    new = np.asarray(data.draw(words)).view(np.float32)
    if data.draw(st.booleans()):
        old, new = old.T, new.T  # memory in another order than C
    patch = patch_between("a", old, new)
    assert np.all(np.diff(patch.flat_index) > 0)
    kept = old.tobytes()
    there = applied(patch, "a", old)
    assert there.shape == new.shape
    assert there.tobytes() == new.tobytes()
    assert applied(revert(patch), "a", new).tobytes() == old.tobytes() == kept
    assert len(patch) == sum(x.tobytes() != y.tobytes() for x, y in zip(old.reshape(-1), new.reshape(-1), strict=True))


def test_arrays_that_no_patch_lies_between() -> None:
    array = np.zeros((2, 3), np.float32)
    with pytest.raises(InputError, match=r"'a/kernel': found the shapes \(2, 3\) and \(3, 2\), expected one"):
        patch_between("a/kernel", array, array.T)
    for wide in ((array.astype(np.float64), array), (array, array.astype(np.float64))):
        with pytest.raises(InputError, match="'a/kernel': found values of type float64, expected float32"):
            patch_between("a/kernel", *wide)


def test_only_the_rows_of_the_weight_apply_to_it() -> None:
    array = np.array([[1, 2], [3, 4]], np.float32)
    patch = patch_of([("b", 0, 9, 8), ("a", 3, 4, 7), ("a", 0, 1, 5)])
    np.testing.assert_array_equal(applied(patch, "a", array), [[5, 2], [3, 7]])
    np.testing.assert_array_equal(array, [[1, 2], [3, 4]])
    untouched = applied(patch, "c", array)
    np.testing.assert_array_equal(untouched, array)
    assert not np.shares_memory(untouched, array)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("a", 1, 1.5, 3), r"'a' at index 1 is 2\.0, expected 1\.5 as when the patch was made"),
        (("a", 0, -0.0, 3), r"'a' at index 0 is 0\.0, expected -0\.0 as"),
        (("a", 2, 0, 3), "'a': the patch has index 2, expected 0 to 1"),
        (("a", -1, 2, 3), "'a': the patch has index -1, expected 0 to 1"),
    ],
)
def test_patch_that_does_not_fit_an_array(row: tuple[str, int, float, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        applied(patch_of([row]), "a", np.array([0, 2], np.float32))


def test_patch_of_an_array_of_another_type() -> None:
    with pytest.raises(InputError, match="'a': found values of type float16, expected float32"):
        applied(NO_CHANGE, "a", np.zeros(2, np.float16))


@given(BASES, CHANGES)
def test_taking_back_twice(base: dict[Key, int], changes: dict[Key, int]) -> None:
    patch = changing(base, changes)
    assert rows_of(revert(revert(patch))) == rows_of(patch)
    assert rows_of(revert(patch)) == [(path, place, new, old) for path, place, old, new in rows_of(patch)]
    assert len(compose(patch, revert(patch))) == 0
    assert same(after(revert(patch), after(patch, values_of(base))), values_of(base))


def test_a_composition_by_hand() -> None:
    first = patch_of([("b", 7, 1, 2), ("a", 3, 5, 6), ("b", 2, 0, 4), ("b", 1, 1, 1)])
    second = patch_of([("c", 0, 8, 9), ("b", 2, 4, 0), ("b", 7, 2, 3), ("b", 9, 6, 7)])
    assert rows_of(compose(first, second)) == rows_of(
        patch_of([("b", 7, 1, 3), ("b", 9, 6, 7), ("a", 3, 5, 6), ("c", 0, 8, 9)])
    )
    assert len(compose(NO_CHANGE, NO_CHANGE)) == 0


@given(BASES, CHANGES, CHANGES)
def test_a_composition_does_what_its_parts_do(
    base: dict[Key, int], changes: dict[Key, int], later: dict[Key, int]
) -> None:
    first, second = changing(base, changes), changing({**base, **changes}, later)
    both = compose(first, second)
    assert same(after(both, values_of(base)), after(second, after(first, values_of(base))))
    end = {**base, **changes, **later}
    assert {row[:2] for row in rows_of(both)} == {key for key in PLACES if base[key] != end[key]}


def test_a_composition_that_does_not_follow() -> None:
    first, second = patch_of([("a", 3, 5, 6), ("b", 1, 0, 1)]), patch_of([("b", 1, 1, 2), ("a", 3, 5, 7)])
    with pytest.raises(
        InputError,
        match=r"^'a' at index 3 was 5\.0 when the second patch was made, expected 6\.0 as the first leaves it$",
    ):
        compose(first, second)
    with pytest.raises(InputError, match=r"was 0\.0 .* expected -0\.0"):
        compose(patch_of([("a", 0, 1, -0.0)]), patch_of([("a", 0, 0.0, 1)]))


def test_a_union_by_hand() -> None:
    first = patch_of([("b", 7, 1, 2), ("a", 3, 5, 6), ("b", 2, 0, 4), ("a", 9, 1, 1)])
    second = patch_of([("c", 0, 8, 9), ("b", 7, 1, 3), ("a", 9, 1, 2), ("a", 3, 5, 6)])
    assert rows_of(merge([first, second])) == rows_of(
        patch_of([("b", 2, 0, 4), ("b", 7, 1, 2), ("a", 3, 5, 6), ("a", 9, 1, 2), ("c", 0, 8, 9)])
    )
    assert conflicts([first, second]) == 1, "b 7 alone: a 9 is left as it is by the first"
    assert len(merge([])) == conflicts([]) == 0


@given(BASES, st.lists(CHANGES, max_size=4))
def test_a_union_is_what_a_loop_makes(base: dict[Key, int], several: list[dict[Key, int]]) -> None:
    patches = [changing(base, changes) for changes in several]
    wanted: dict[Key, list[int]] = {}
    for changes in several:
        for key, new in changes.items():
            if new != base[key]:
                wanted.setdefault(key, []).append(new)
    merged = merge(patches)
    assert {row[:2]: row[2:] for row in rows_of(merged)} == {key: (base[key], new[0]) for key, new in wanted.items()}
    assert len(merged) == len(wanted)
    assert conflicts(patches) == sum(len(set(new)) > 1 for new in wanted.values())
    seen = list(dict.fromkeys(path for changes in several for path, _ in changes))
    order = [(seen.index(path), place) for path, place, *_ in rows_of(merged)]
    assert order == sorted(order)


@given(BASES, st.lists(CHANGES, max_size=4), st.sets(st.sampled_from([*SIZES, "c"])))
def test_a_union_that_keeps_weights_whole(base: dict[Key, int], several: list[dict[Key, int]], whole: set[str]) -> None:
    patches = [changing(base, changes) for changes in several]
    merged, rows = merge_rows(patches, whole)
    all_rows = [row for patch in patches for row in rows_of(patch)]
    assert rows_of(merged) == [all_rows[row] for row in rows]
    kept = {row[:2]: row for row in rows_of(merged)}
    assert len(kept) == len(merged)
    changed = {row[:2]: row for row in rows_of(merge(patches))}
    same = {row[:2] for row in all_rows if row[0] in whole} - changed.keys()
    assert kept.keys() == changed.keys() | same
    assert all(kept[key] == row for key, row in changed.items())
    assert all(kept[key][2] == kept[key][3] == base[key] for key in same)
    seen = list(dict.fromkeys(path for changes in several for path, _ in changes))
    assert list(kept) == sorted(kept, key=lambda key: (seen.index(key[0]), key[1]))


def test_patches_of_different_models() -> None:
    several = [patch_of([("a", 3, 5, 6)]), patch_of([("b", 0, 1, 2)]), patch_of([("b", 0, 1, 3), ("a", 3, 4, 4)])]
    with pytest.raises(
        InputError,
        match=r"^'a' at index 3 was 5\.0 when patch 1 was made and 4\.0 when patch 3 was, expected patches of one mod",
    ):
        merge(several)
    with pytest.raises(InputError, match=r"was 0\.0 .* and -0\.0"):
        merge([patch_of([("a", 0, 0.0, 1)]), patch_of([("a", 0, -0.0, 1)])])
