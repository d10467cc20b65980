"""Weights and new values in the toolkit's `labels.json`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from engine.core.errors import InputError
from engine.data.label_file import read_priorities
from engine.localize.weights_file import write_repaired_labels, write_weights


def labels_file(folder: Path, **entries: object) -> Path:
    path = folder / "labels.json"
    path.write_text(json.dumps([[label.removeprefix("l"), entry] for label, entry in entries.items()], indent=4))
    return path


def test_what_was_found_stands_beside_what_was_there(tmp_path: Path) -> None:
    path = labels_file(
        tmp_path, l6={"repair_priority": 2, "score": 1.5, "weights": [[1, 1, 1]]}, l4={"repair_priority": 0}
    )
    index, new = np.array([[3, 1], [0, 2]]), np.array([0.1, -2.5], np.float32)
    write_weights(tmp_path / "weights.csv", 8, index, np.zeros(2, np.float32), new)
    write_repaired_labels(path, tmp_path / "weights.csv", [6, 9])
    six = {"repair_priority": 2, "score": 1.5, "weights": [[8, 3, 1], [8, 0, 2]], "repaired_values": ["0.1", "-2.5"]}
    assert path.read_text() == json.dumps([["6", six], ["4", {"repair_priority": 0}]], indent=4)
    assert [np.float32(value) for value in six["repaired_values"]] == new.tolist()


def test_priorities(tmp_path: Path) -> None:
    path = labels_file(tmp_path, l6={"repair_priority": 2, "prevent_degradation": 0.5}, l4={"repair_priority": 0})
    assert read_priorities(path, "repair_priority", 10) == ((6, 2.0), (4, 0.0))
    assert read_priorities(path, "prevent_degradation", 10) == ((6, 0.5), (4, 0.0))


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ({"repair_priority": 0}, "gives no label a repair_priority above 0, expected at least one"),
        ({"success": 97}, "gives no label a repair_priority above 0"),
        ({"repair_priority": "2"}, 'has repair_priority = "2" of label 6, expected a number from 0'),
        ({"repair_priority": True}, "has repair_priority = true of label 6"),
        ({"repair_priority": -1}, "has repair_priority = -1 of label 6"),
        ({"repair_priority": float("nan")}, "has repair_priority = NaN of label 6"),
        ({"repair_priority": 10**400}, "has repair_priority = 1000"),
        ({"repair_priority": None}, "has repair_priority = null of label 6"),
    ],
)
def test_what_is_no_priority(entry: dict[str, object], found: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=found):
        read_priorities(labels_file(tmp_path, l6=entry), "repair_priority", 10)


def test_labels_that_the_data_has_not(tmp_path: Path) -> None:
    path = labels_file(tmp_path, l10={"repair_priority": 1})
    with pytest.raises(InputError, match="has an entry of label 10, expected labels from 0 to 9"):
        read_priorities(path, "repair_priority", 10)
