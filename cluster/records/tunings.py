"""Tunings of a run that goes on: kept until its end, so that none is run twice."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from cluster.records.store import RunRecords
from engine.core.types import Float32


def keep(records: RunRecords, task: str, changes: Mapping[str, Float32]) -> None:
    """Keep the changes (G, ..) that a task of tunings came to, by path."""
    with io.BytesIO() as content:
        arrays: dict[str, Any] = {str(number): change for number, change in enumerate(changes.values())}
        np.savez(content, paths=np.array(list(changes), np.str_), **arrays)
        records.write_checkpoint(task, content.getvalue())


def kept(records: RunRecords, task: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Float32] | None:
    """What was kept of a task, of these shapes by path; None where nothing was, or it is damaged: it will run again."""
    try:
        with records.checkpoint(task).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = {str(name): arrays[str(number)] for number, name in enumerate(arrays["paths"])}
    except Exception:  # what the readers of archives and arrays raise for damaged bytes is anything
        return None
    same = list(found) == list(shapes) and all(
        value.dtype == np.float32 and value.shape == shapes[name] for name, value in found.items()
    )
    return found if same else None
