"""Random numbers that depend on what they are for, never on where or when they are drawn."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RngKey:
    """Which random numbers a search draws, see `generator`: of this seed, rows and label."""

    seed: int
    data: str
    label: int


def generator(seed: int, data: str, label: int, purpose: str, step: int = 0) -> np.random.Generator:
    """A generator for one purpose at one step of one job.

    Philox is counter-based (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): the key is a
    digest of (seed, data, label, purpose) and the counter starts at `step`, so every worker draws the same
    numbers without sharing any state, and another label or chunk changes none of them.

    Args:
        seed: the user's seed, any integer.
        data: fingerprint of the rows the job searches on.
        label: true label under repair, or -1 for several.
        purpose: for instance "start" or "velocity".
        step: iteration, at least 0.
    """
    text = f"{seed}|{data}|{label}|{purpose}".encode()
    key = np.frombuffer(hashlib.sha256(text).digest()[:16], dtype="<u8")
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, step]))
