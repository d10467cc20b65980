"""The weights that a command found or changed, as lists, for `--verbose=2`."""

from __future__ import annotations

import csv
from pathlib import Path


def weights_text(folder: Path) -> str:
    """A list in Python's notation for every row of weights.csv, or else every weight of weights.arrow."""
    from engine.localize.weights_file import ARROW, CSV
    from engine.patches.arrow import read_patch

    if (folder / CSV).is_file():
        with (folder / CSV).open(encoding="ascii", newline="") as file:
            return "\n".join(f"[{', '.join(row)}]" for row in csv.reader(file))
    if not (folder / ARROW).is_file():
        return ""
    patch = read_patch(folder / ARROW)
    columns = (patch.weight, patch.flat_index.tolist(), patch.old, patch.new)
    return "\n".join(f"[{path!r}, {index}, {old}, {new}]" for path, index, old, new in zip(*columns, strict=True))
