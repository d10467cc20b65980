"""A package with two data sets: pixels with a test set of their own, and pictures in files, named by a table."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from engine import Dataset, InputError, Pictures

LABEL_NAMES = ("dark", "middle", "light")


def read_shades(input_dir: Path) -> Pictures:
    """From `shades.npz`: images (n, h, w) and labels (n,), and the same of a test set."""
    with np.load(input_dir / "shades.npz") as file:
        return Pictures(LABEL_NAMES, file["images"], file["labels"], file["test_images"], file["test_labels"])


def read_shade_files(input_dir: Path) -> Pictures:
    """From a table `shades.csv`, whose rows are the name of a file beside it and the name of a label."""
    with (input_dir / "shades.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    unknown = [label for _, label in rows if label not in LABEL_NAMES]
    if unknown:
        raise InputError(f"{input_dir}/shades.csv has a label {unknown[0]}, expected one of {', '.join(LABEL_NAMES)}")
    return Pictures(LABEL_NAMES, [input_dir / name for name, _ in rows], [LABEL_NAMES.index(row[1]) for row in rows])


SHADES = Dataset("Images of one grey shade each, with a test set.", read_shades)
SHADE_FILES = Dataset("Picture files of one shade each.", read_shade_files)
