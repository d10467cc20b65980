"""The patch: which weights of a model change, from what to what, and how patches combine.

Values are compared bit for bit everywhere, so 0.0 and -0.0 differ and a NaN equals itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.core.errors import InputError
from engine.core.types import Float32, Int64


@dataclass(frozen=True, eq=False)
class Patch:
    """Weights of a model with their old and new values; one row per weight, K rows: a few, or all of whole tensors.

    Attributes:
        weight: K paths `<layer name>/<variable name>`, as `engine.models.weight_paths.weight_variables` names them.
        flat_index: shape (K,), int64, position in the flattened (C order) array.
        old: shape (K,), float32, the value the patch was made against.
        new: shape (K,), float32, the value after repair.
    """

    weight: tuple[str, ...]
    flat_index: Int64
    old: Float32
    new: Float32

    def __len__(self) -> int:
        return len(self.weight)

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """The distinct weight paths, in order of first appearance."""
        return tuple(dict.fromkeys(self.weight))

    @cached_property
    def part(self) -> npt.NDArray[np.int32]:
        """Of each row (K,) the place of its weight path in `paths`: millions of numbers are compared, not of names."""
        number = {path: n for n, path in enumerate(self.paths)}
        return np.fromiter(map(number.__getitem__, self.weight), np.int32, len(self))

    def by_weight(self) -> Iterator[tuple[str, npt.NDArray[np.intp]]]:
        """Yield each distinct weight path, in order of first appearance, with the rows (m,) that change it."""
        for number, path in enumerate(self.paths):
            yield path, np.flatnonzero(self.part == number)

    def changing(self) -> npt.NDArray[np.intp]:
        """The rows that change something: old and new value differ in their bits."""
        return np.flatnonzero(_bits(self.old) != _bits(self.new))

    def first_twice(self) -> tuple[int, int] | None:
        """The first row that is about the same weight as one before it, after that row; None where there is none."""
        rows = _Rows.of([self])
        again = np.flatnonzero(rows.first != np.arange(len(self)))
        if not len(again):
            return None
        found = again[np.argmin(rows.row[again])]
        return int(rows.row[rows.first[found]]), int(rows.row[found])


NO_CHANGE = Patch((), np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.float32))


def patch_between(path: str, old: Float32, new: Float32) -> Patch:
    """What leads from one array to another: every position whose bits differ, by ascending flat index.

    Args:
        path: of the weight that both are.
        old, new: float32, of one shape, whatever that is.

    Raises:
        InputError: the arrays are not float32 or differ in shape.
    """
    if old.shape != new.shape:
        raise InputError(f"{path!r}: found the shapes {old.shape} and {new.shape}, expected one")
    before, after = _flat(path, old), _flat(path, new)
    places = np.flatnonzero(_bits(before) != _bits(after))
    return Patch((path,) * len(places), places.astype(np.int64), before[places], after[places])


def tensors_patch(old: Mapping[str, Float32], new: Mapping[str, Float32]) -> Patch:
    """What leads from some weights to others, every position of each, even where the bits are equal.

    Args:
        old, new: float32 arrays by the path of their weight; the same paths, with the same shapes.

    Returns:
        Rows in the order of `old`, then by flat index; a weight without numbers has none.

    Raises:
        InputError: the paths or shapes differ, or an array is not float32.
    """
    if lonely := sorted(old.keys() ^ new.keys()):
        which = "old" if lonely[0] in old else "new"
        raise InputError(f"{lonely[0]!r}: found only {which} values, expected old and new ones")
    for path, array in old.items():
        if array.shape != new[path].shape:
            raise InputError(f"{path!r}: found the shapes {array.shape} and {new[path].shape}, expected one")
    sizes = {path: array.size for path, array in old.items()}
    return Patch(
        tuple(chain.from_iterable(map(repeat, sizes.keys(), sizes.values()))),
        np.concatenate([NO_CHANGE.flat_index, *map(np.arange, sizes.values())]),
        np.concatenate([NO_CHANGE.old, *(_flat(path, old[path]) for path in sizes)]),
        np.concatenate([NO_CHANGE.new, *(_flat(path, new[path]) for path in sizes)]),
    )


def applied(patch: Patch, path: str, array: Float32) -> Float32:
    """A copy of a weight, float32 of any shape, with the rows of a patch that change it."""
    flat = _flat(path, array).copy()
    rows = np.flatnonzero(patch.part == patch.paths.index(path)) if path in patch.paths else np.arange(0)
    places, old = patch.flat_index[rows], patch.old[rows]
    if len(outside := places[(places < 0) | (places >= flat.size)]):
        raise InputError(f"{path!r}: the patch has index {outside[0]}, expected 0 to {flat.size - 1}")
    if (row := first_other(flat[places], old)) is not None:
        raise InputError(
            f"{path!r} at index {places[row]} is {flat[places[row]]!s}, "
            f"expected {old[row]!s} as when the patch was made"
        )
    flat[places] = patch.new[rows]
    return flat.reshape(array.shape)


def first_other(values: Float32, expected: Float32) -> int | None:
    """The first of the values (K,) whose bits are not those expected."""
    wrong = np.flatnonzero(_bits(values) != _bits(expected))
    return int(wrong[0]) if len(wrong) else None


def revert(patch: Patch) -> Patch:
    """The patch that takes back another."""
    return Patch(patch.weight, patch.flat_index, patch.new, patch.old)


def merge(patches: Sequence[Patch]) -> Patch:
    """The union of patches that were made against one model.

    Where several change a weight, the value of the earliest holds. Rows that change nothing are dropped; the rest is
    ordered by weight path (as first seen), then by flat index.

    Raises:
        InputError: two patches have different old values for a weight.
    """
    return merge_rows(patches)[0]


def merge_rows(patches: Sequence[Patch], whole: Collection[str] = ()) -> tuple[Patch, npt.NDArray[np.intp]]:
    """The union of patches, as `merge` makes it, and which of all their rows it has."""
    rows = _Rows.of(patches)
    wrong = np.flatnonzero(_bits(rows.old) != _bits(rows.old[rows.first]))
    if len(wrong):
        row, first = wrong[0], rows.first[wrong[0]]
        raise InputError(
            f"{rows.name(row)} was {rows.old[first]!s} when patch {rows.source[first] + 1} was made and "
            f"{rows.old[row]!s} when patch {rows.source[row] + 1} was, expected patches of one model"
        )
    changing = rows.changing()
    kept = changing[_begins(rows.first[changing])]
    stays = np.flatnonzero(
        np.isin(rows.path, [number for number, path in enumerate(rows.paths) if path in whole])
        & (rows.first == np.arange(len(rows.first)))
    )
    unchanged = np.setdiff1d(stays, rows.first[kept], assume_unique=True)
    kept = np.sort(np.concatenate([kept, unchanged]))
    return rows.patch(kept, rows.old[kept], rows.new[kept]), rows.row[kept]


def conflicts(patches: Sequence[Patch]) -> int:
    """The number of weights that patches change to different values."""
    rows = _Rows.of(patches)
    changing = rows.changing()
    begins = _begins(rows.first[changing])
    weight = np.cumsum(begins) - 1
    new = _bits(rows.new[changing])
    return int(_begins(weight[new != new[begins][weight]]).sum())


def compose(first: Patch, second: Patch) -> Patch:
    """One patch from before `first` to after `second`, which was made against the model after `first`.

    Rows that end where they began are dropped; the rest is ordered by weight path (as first seen), then by flat index.

    Raises:
        InputError: a weight that both change is not, for the second, what the first makes of it.
    """
    rows = _Rows.of((first, second))
    again = np.flatnonzero(rows.first != np.arange(len(rows.first)))
    wrong = again[_bits(rows.old[again]) != _bits(rows.new[again - 1])]
    if len(wrong):
        row = wrong[0]
        raise InputError(
            f"{rows.name(row)} was {rows.old[row]!s} when the second patch was made, expected "
            f"{rows.new[row - 1]!s} as the first leaves it"
        )
    begin = np.flatnonzero(rows.first == np.arange(len(rows.first)))
    end = np.append(begin[1:], len(rows.first))[: len(begin)] - 1
    moved = _bits(rows.old[begin]) != _bits(rows.new[end])
    return rows.patch(begin[moved], rows.old[begin[moved]], rows.new[end[moved]])


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows of several patches, N of them, sorted by weight path (as first seen), flat index and patch."""

    paths: tuple[str, ...]  # the distinct weight paths
    path: Int64  # (N,) positions in `paths`
    flat_index: Int64  # flat_index, old, new: (N,) as in a patch
    old: Float32
    new: Float32
    row: npt.NDArray[np.intp]  # (N,) place in the rows of all patches, one patch after the other
    source: Int64  # (N,) number of the patch, from 0
    first: Int64  # (N,) the first row that is about the same weight

    @staticmethod
    def of(patches: Sequence[Patch]) -> _Rows:
        patches = [*patches, NO_CHANGE]  # so that there is something to concatenate
        number = {
            path: n for n, path in enumerate(dict.fromkeys(chain.from_iterable(patch.paths for patch in patches)))
        }
        path = np.concatenate(
            [np.array([number[name] for name in patch.paths], np.int64)[patch.part] for patch in patches]
        )
        flat = np.concatenate([patch.flat_index for patch in patches])
        source = np.repeat(np.arange(len(patches)), [len(patch) for patch in patches])
        order = np.lexsort((source, flat, path))
        path, flat = path[order], flat[order]
        starts = np.ones(len(order), bool)
        starts[1:] = (path[1:] != path[:-1]) | (flat[1:] != flat[:-1])
        first = np.flatnonzero(starts)[np.cumsum(starts) - 1]
        old = np.concatenate([patch.old for patch in patches])[order]
        new = np.concatenate([patch.new for patch in patches])[order]
        return _Rows(tuple(number), path, flat, old, new, order, source[order], first)

    def changing(self) -> npt.NDArray[np.intp]:
        return np.flatnonzero(_bits(self.old) != _bits(self.new))

    def name(self, row: Any) -> str:
        return f"{self.paths[self.path[row]]!r} at index {self.flat_index[row]}"

    def patch(self, rows: npt.NDArray[np.intp], old: Float32, new: Float32) -> Patch:
        return Patch(tuple(map(self.paths.__getitem__, self.path[rows].tolist())), self.flat_index[rows], old, new)


def _begins(numbers: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.bool_]:
    """Of sorted numbers from 0 on (n,), which are the first of their value."""
    begins: npt.NDArray[np.bool_] = np.diff(numbers, prepend=-1) != 0
    return begins


def _bits(values: Float32) -> npt.NDArray[np.uint32]:
    return np.ascontiguousarray(values).view(np.uint32)


def _flat(path: str, array: Float32) -> Float32:
    if array.dtype != np.float32:
        raise InputError(f"{path!r}: found values of type {array.dtype}, expected float32 to be patched")
    return np.ascontiguousarray(array).reshape(-1)
