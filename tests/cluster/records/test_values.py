"""Results of work and fingerprints of work: what a plan was sent counts as what was read back of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.records.fingerprints import fingerprint
from cluster.records.values import pack, unpack
from engine.core.plans import Work


@dataclass(frozen=True, eq=False)
class Shared:
    rows: Any
    note: str = ""


def call(*arguments: Any) -> None:
    """A piece of work."""


def other(*arguments: Any) -> None:
    """Another one."""


def of(*arguments: Any) -> str:
    return fingerprint(Work("one", call, arguments))


ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)
VALUES = [
    *(None, True, 1, 1.0, -0.0, 0.0, "1", b"1", [1], (1,), [[1], 2], [1, [2]], {"a": 1, "b": 2}, {"b": 2, "a": 1}),
    *(ROWS, ROWS.T, ROWS.astype(np.float64), ROWS.reshape(3, 2), ROWS + 1, np.float32(1), np.bool_(True), np.int64(1)),
    *(
        np.array(["a", "bc"]),
        np.array(["ab", "c"]),
        np.zeros((0, 3)),
        np.zeros((3, 0)),
        Shared(ROWS),
        Shared(ROWS, "a"),
    ),
    *(Shared([]), int, float),
]


def test_other_arguments_and_other_calls_have_other_fingerprints() -> None:
    found = [of(value) for value in VALUES] + [of(), of(1, 2), of((1, 2)), fingerprint(Work("one", other, (1,)))]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    "value",
    [VALUES, [np.float64(0.1), float("nan"), float("inf")], (1, {"a": (ROWS, np.int8(3))}), np.asfortranarray(ROWS)],
)
def test_a_value_that_was_kept_counts_as_before(value: Any, tmp_path: Path) -> None:
    if value is VALUES:
        value = [one for one in VALUES if not isinstance(one, bytes | Shared | type)]
    (tmp_path / "kept").write_bytes(pack("one", value))
    known, again = unpack(tmp_path / "kept")
    assert known and of(again) == of(value) and of(Shared(again)) == of(Shared(value))
