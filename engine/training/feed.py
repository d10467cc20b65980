from __future__ import annotations

import math

import numpy as np

from engine.backend import keras
from engine.core.types import Float32, Int64
from engine.data.image_set import READ_ROWS, ImageReader, ImageSet
from engine.passes.sizes import BATCH_ROWS


class Feed(keras.utils.PyDataset):  # type: ignore[misc]
    """Batch k is `feed[k]`: images (m, h, w, c) and one-hot labels, float32, in the order of `deal`.

    Rows that fit into `held_bytes` are read at a time and kept.
    """

    def __init__(self, images: ImageSet, rows: Int64, reader: ImageReader, held_bytes: int) -> None:
        super().__init__()
        self.rows = rows
        self.labels = images.labels[rows]
        self._one_hot = np.eye(images.classes, dtype=np.float32)
        self._reader = reader
        self._held_rows = held_bytes // (4 * math.prod(images.image_shape))
        self._places, self._images = rows[:0], np.empty((0, *images.image_shape), np.float32)
        self.deal(BATCH_ROWS)

    def deal(self, batch_rows: int, random: np.random.Generator | None = None) -> None:
        self._batch_rows = batch_rows
        self._pool_rows = max(1, self._held_rows // batch_rows) * batch_rows
        self._order = shuffled_places(self.rows, self._pool_rows, random) if random else np.arange(len(self.rows))
        self._pool_start: int | None = None

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self._batch_rows)

    def __getitem__(self, index: int) -> tuple[Float32, Float32]:
        start = index * self._batch_rows
        chosen = self._order[start : start + self._batch_rows]
        first = start - start % self._pool_rows
        if first != self._pool_start and len(self._places) < len(self.rows):
            self._images = self._images[:0].copy()  # before the next pool is read
            self._places = np.sort(self._order[first : first + self._pool_rows])
            self._images, self._pool_start = self._reader.read_rows(self.rows[self._places]), first
        return self._images[np.searchsorted(self._places, chosen)], self._one_hot[self.labels[chosen]]


def shuffled_places(rows: Int64, pool_rows: int, random: np.random.Generator) -> Int64:
    """Every place in `rows` (n,), ascending, once, in pools of `pool_rows` that are one after the other.

    The stretches of `READ_ROWS` rows of the file come in random order; so many as make a pool are shuffled together.
    A file is so read in long pieces, and those that `READ_ROWS` packs together are unpacked once. A single pool is in
    any order.
    """
    ends = np.searchsorted(rows, np.arange(READ_ROWS, rows[-1] + 1, READ_ROWS))
    blocks = np.split(np.arange(len(rows)), ends)
    order = np.concatenate([blocks[number] for number in random.permutation(len(blocks))])
    return np.concatenate(
        [random.permutation(order[start : start + pool_rows]) for start in range(0, len(rows), pool_rows)]
    )
