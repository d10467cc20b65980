"""Patches of whole tensors: the second version of a patch file, with one row per tensor, and what such a patch does."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa

from engine.core.errors import InputError
from engine.core.types import Float32
from engine.patches.patch import Patch, tensors_patch

Shapes = Mapping[str, tuple[int, ...]]
"""The shapes of weights, by path."""

VERSION = b"2"
"""What the metadata of the schema have under `version`; a file of the first version has no such key."""

SCHEMA: pa.Schema = pa.schema(
    [
        pa.field(name, kind, metadata={"description": text})
        for name, kind, text in (
            ("weight", pa.string(), "path of the weight, <layer>/<variable>"),
            ("shape", pa.list_(pa.int64()), "of the weight"),
            ("old_sha256", pa.string(), "SHA-256 of the bytes of `old`, in hexadecimal digits"),
            ("old", pa.large_binary(), "values the patch was made against: float32, little-endian, C order"),
            ("new", pa.large_binary(), "values after repair, in the same form"),
        )
    ],
    metadata={"version": VERSION},
)
"""The columns of a patch file of version 2."""


@dataclass(frozen=True)
class TensorChange:
    """What a patch does to a whole tensor."""

    weight: str  # its path
    shape: tuple[int, ...]  # its sizes
    changed: int  # how many values are other ones, bit for bit
    largest: float  # largest absolute difference of a new and an old value
    rms: float  # square root of the mean squared difference, over all values of the tensor


def whole_weights(patch: Patch, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """The shape of each weight that a patch covers whole: its rows stand together and go through every flat index.

    Rows in another order say more than the tensor does, so such a weight does not count.
    """
    found = {}
    for path, rows in patch.by_weight():
        count = len(rows)
        if path not in shapes or math.prod(shapes[path]) != count or rows[-1] - rows[0] != count - 1:
            continue
        if np.array_equal(patch.flat_index[rows[0] : rows[-1] + 1], np.arange(count)):
            found[path] = tuple(shapes[path])
    return found


def tensor_columns(patch: Patch, shapes: Shapes) -> list[pa.Array]:
    """The columns of `SCHEMA`, one row per weight; the values are not copied."""
    ends = np.cumsum([0, *(math.prod(shapes[path]) for path in patch.paths)])
    old, new = (np.ascontiguousarray(values, "<f4") for values in (patch.old, patch.new))
    digests = [hashlib.sha256(old[start:stop].data).hexdigest() for start, stop in pairwise(ends)]
    offsets = pa.py_buffer(4 * ends.astype(np.int64))
    return [
        pa.array(patch.paths, pa.string()),
        pa.array([shapes[path] for path in patch.paths], pa.list_(pa.int64())),
        pa.array(digests, pa.string()),
        *(
            pa.Array.from_buffers(pa.large_binary(), len(digests), [None, offsets, pa.py_buffer(values)])
            for values in (old, new)
        ),
    ]


def patch_of_tensors(columns: Mapping[str, pa.Array], source: str) -> tuple[Patch, dict[str, tuple[int, ...]]]:
    """The patch in the columns of `SCHEMA`, which have no missing values, and the shapes of its weights."""
    shapes: dict[str, tuple[int, ...]] = {}
    values: dict[str, dict[str, Float32]] = {"old": {}, "new": {}}
    rows = zip(*(columns[name].to_pylist() for name in ("weight", "shape", "old_sha256")), strict=True)
    for row, (path, shape, expected) in enumerate(rows):
        if path in shapes:
            raise InputError(f"{source}: rows {list(shapes).index(path)} and {row} are both {path!r}, expected one")
        if min(shape, default=1) < 1:
            raise InputError(f"{source}: {path!r} has the shape {shape}, expected no size below 1")
        shapes[path] = tuple(shape)
        buffers = {name: columns[name][row].as_buffer() for name in values}
        for name, buffer in buffers.items():
            if buffer.size != 4 * math.prod(shape):
                raise InputError(
                    f"{source}: {path!r} has {buffer.size} bytes of {name} values, expected {4 * math.prod(shape)} for "
                    f"the shape {shape}"
                )
            values[name][path] = np.frombuffer(buffer, "<f4").astype(np.float32, copy=False)
        digest = hashlib.sha256(buffers["old"]).hexdigest()
        if digest != expected:
            raise InputError(f"{source}: the old values of {path!r} have the SHA-256 {digest}, expected {expected}")
    return tensors_patch(values["old"], values["new"]), shapes


def tensor_changes(patch: Patch, shapes: Shapes) -> list[TensorChange]:
    """What a patch does to the weights that it covers whole, in its order."""
    found = []
    for path, rows in patch.by_weight():
        if path in shapes:
            old, new = patch.old[rows], patch.new[rows]
            with np.errstate(invalid="ignore"):  # a model may hold infinite values
                difference = np.abs(new.astype(np.float64) - old)
            changed = np.count_nonzero(old.view(np.uint32) != new.view(np.uint32))
            rms = math.sqrt(np.mean(difference**2))
            found.append(TensorChange(path, tuple(shapes[path]), int(changed), float(difference.max()), rms))
    return found
