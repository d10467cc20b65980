"""Localised weights and their new values in the toolkit's `labels.json`."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from engine.data.label_file import read_label_file, write_label_file
from engine.localize.weights_file import read_rows


def write_repaired_labels(path: Path, weights: Path, labels: Sequence[int]) -> None:
    """Write what was searched for some labels into their entries of a `labels.json`, where there are any.

    They get `weights`, as [layer, i, j], and in the same order `repaired_values`, float32 as text; all else stays.
    `weights` is a `weights.csv` with new values.
    """
    places = [list(place) for _, place in read_rows(weights)]
    with weights.open(newline="", encoding="ascii") as file:
        values = [row[-1] for row in csv.reader(file)]
    entries = read_label_file(path)
    for label in labels:
        if label in entries:
            entries[label] |= {"weights": places, "repaired_values": values}
    write_label_file(path, entries)
