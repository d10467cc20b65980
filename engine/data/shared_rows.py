"""Rows that two sets have in common, told by the digests of their numbers: labels do not count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.core.types import Bool, Uint8
from engine.data.image_set import DIGEST_BYTES

Keys = npt.NDArray[Any]  # digests as texts of bytes (n,), which NumPy can sort


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
