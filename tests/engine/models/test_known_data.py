"""What lies beside a model of the rows that it was made with, and what becomes of it when a model is repaired."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.data.value_range import ValueRange
from engine.models.known_data import REPAIR_FACTS, TRAINING_FACTS, KnownData, keep_known_data, known_data
from engine.models.load import fingerprint_of


def a_model(folder: Path, content: bytes = b"a model") -> Any:
    folder.mkdir()
    path = folder / "model.keras"
    path.write_bytes(content)
    return SimpleNamespace(path=path, format="keras", fingerprint=fingerprint_of(path, "keras"))


def write(model: Any, name: str = TRAINING_FACTS, **facts: Any) -> None:
    (model.path.parent / name).write_text(json.dumps({"fingerprint": model.fingerprint, **facts}))


def test_what_training_left(tmp_path: Path) -> None:
    model = a_model(tmp_path / "model")
    assert known_data(model) is None
    write(model, data={"preprocess": "pad", "values": [0, 1]})
    assert known_data(model) == KnownData(ValueRange(0.0, 1.0), "pad", "trained")


@pytest.mark.parametrize(
    "facts",
    [
        {"data": []},
        {"data": {"values": ["x", 1]}},
        {"data": {"preprocess": 7}},
        {"data": {"preprocess": "pad"}, "verb": "broken"},
        {"data": {"preprocess": "pad"}, "fingerprint": "of another model"},
        {},
    ],
)
def test_what_is_no_such_file_tells_nothing(facts: dict[str, Any], tmp_path: Path) -> None:
    model = a_model(tmp_path / "model")
    write(model, **facts)
    (model.path.parent / REPAIR_FACTS).write_bytes(b"\xff{")
    assert known_data(model) is None


def test_a_repair_keeps_what_is_known_and_adds_what_is_not(tmp_path: Path) -> None:
    model, repaired = a_model(tmp_path / "model"), a_model(tmp_path / "repaired", b"repaired")
    keep_known_data(model, repaired.path, None)
    assert not (repaired.path.parent / REPAIR_FACTS).exists()
    keep_known_data(model, repaired.path, "pad")
    assert known_data(repaired) == KnownData(None, "pad", "repaired")
    write(model, data={"preprocess": None, "values": [0, 255]})
    keep_known_data(model, repaired.path, "pad")
    assert known_data(repaired) == KnownData(ValueRange(0.0, 255.0), "pad", "repaired")
    write(model, data={"preprocess": "resize", "values": [0, 255]})
    keep_known_data(model, repaired.path, "pad")
    assert known_data(repaired) == KnownData(ValueRange(0.0, 255.0), "resize", "trained")
