"""What checkpoints are to a run: what the two files hold that are compared."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from cluster.runs.checkpoints import checkpoint_facts
from engine.core.errors import InputError


def test_only_what_is_compared_counts_and_by_its_bytes(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        (tmp_path / f"{epoch}.weights.h5").write_text(f"epoch {epoch}")
    first = checkpoint_facts(tmp_path, (2, 1))
    assert first == {f"{k}.weights.h5": hashlib.sha256(f"epoch {k}".encode()).hexdigest() for k in (2, 3)}
    (tmp_path / "1.weights.h5").write_text("other")
    (tmp_path / "notes.txt").write_text("other")
    assert checkpoint_facts(tmp_path, (2, 1)) == first != checkpoint_facts(tmp_path, (3, 1))
    (tmp_path / "3.weights.h5").write_text("other")
    assert checkpoint_facts(tmp_path, (2, 1)) != first
    assert checkpoint_facts(None, (2, 1)) == {}


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none: no such folder, expected one with checkpoints"):
        checkpoint_facts(tmp_path / "none", (2, 1))
    (tmp_path / "1.weights.h5").touch()
    with pytest.raises(InputError, match=r"found 1 checkpoint .* expected those of at least two epochs"):
        checkpoint_facts(tmp_path, (2, 1))
