"""Digests of the numbers of rows: what tells rows apart, puts them in order, and finds those that sets have in common.

Labels do not count for what is in common.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.core.types import Bool, Float32, Int64, Uint8
from engine.data.image_set import ImageSet, read_blocks

DIGEST_BYTES = 16
Keys = npt.NDArray[Any]  # digests as texts of bytes (n,), which NumPy can sort


def set_digests(image_set: ImageSet) -> Uint8:
    return np.concatenate([np.empty((0, DIGEST_BYTES), np.uint8), *map(row_digests, read_blocks(image_set))])


def content_fingerprint(image_set: ImageSet, digests: Uint8 | None = None) -> str:
    """SHA-256 (hex) of the shape, the labels and the images as float32, however the file stores and orders them."""
    known = set_digests(image_set) if digests is None else digests
    return rows_fingerprint(image_set.image_shape, image_set.classes, image_set.labels, known)


def row_digests(images: Float32) -> Uint8:
    """Digest (m, 16) of the numbers of each row of images (m, ...)."""
    pixels = np.ascontiguousarray(images.reshape(len(images), -1), "<f4")
    digests = [hashlib.blake2b(row.data, digest_size=DIGEST_BYTES).digest() for row in pixels]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES)


def rows_fingerprint(shape: tuple[int, ...], classes: int, labels: Int64, digests: Uint8) -> str:
    """SHA-256 (hex) of rows with labels (n,) and digests (n, 16) of their numbers, whatever order they are in."""
    order = row_order(digests, labels)
    digest = hashlib.sha256(repr((len(labels), tuple(shape), classes)).encode())
    digest.update(labels[order].astype("<i8").tobytes())
    digest.update(np.ascontiguousarray(digests[order]).data)
    return digest.hexdigest()


def row_order(digests: Uint8, labels: Int64) -> Int64:
    """Rows (n,) by digest (n, 16), then by label (n,): copies stand together, wherever they were in files."""
    halves = np.ascontiguousarray(digests).view(">u8").astype(np.uint64)
    return np.lexsort((labels, halves[:, 1], halves[:, 0]))


@dataclass(frozen=True, eq=False)
class SharedRows:
    keys: Keys  # (m,) of the shared rows, each once
    smaller: int  # distinct rows of the set that has fewer

    @property
    def share(self) -> float:
        return len(self.keys) / self.smaller if self.smaller else 0.0


def distinct_rows(digests: Uint8) -> Keys:
    return np.unique(_keys(digests))


def shared_rows(first: Keys, second: Keys) -> SharedRows:
    return SharedRows(np.intersect1d(first, second, assume_unique=True), min(len(first), len(second)))


def rows_among(digests: Uint8, keys: Keys) -> Bool:
    return np.isin(_keys(digests), keys)


def _keys(digests: Uint8) -> Keys:
    # All have one length: that NumPy ignores zeros at the end of such texts makes no two of them equal.
    return np.ascontiguousarray(digests).reshape(-1).view(f"S{DIGEST_BYTES}")
