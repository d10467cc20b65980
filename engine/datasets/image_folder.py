"""`prepare image-folder`: anybody's pictures, one folder per class.

Classes are the folders in alphabetical order, hidden ones left out, and their names are the label names; files that do
not end like a picture are left out as well. The pictures are taken sorted by class and name; `image_ids` are both.
"""

from __future__ import annotations

from pathlib import Path

from engine.core.errors import InputError
from engine.data.pictures import SUFFIXES
from engine.datasets.dataset import Dataset, Pictures


def read_image_folder(input_dir: Path) -> Pictures:
    """The paths of all pictures; InputError for fewer than two classes and a class without pictures."""
    classes = class_names(input_dir)
    files: list[Path] = []
    labels: list[int] = []
    for number, name in enumerate(classes):
        pictures = sorted(path for path in (input_dir / name).iterdir() if path.suffix.lower() in SUFFIXES)
        if not pictures:
            raise InputError(f"{input_dir / name} has no picture, expected at least one ({', '.join(SUFFIXES)})")
        files += pictures
        labels += [number] * len(pictures)
    return Pictures(classes, files, labels)


def class_names(input_dir: Path) -> tuple[str, ...]:
    """Names of the classes in order; InputError where there are not two."""
    if not input_dir.is_dir():
        raise InputError(f"{input_dir}: no such folder, expected one with a folder per class")
    names = sorted(path.name for path in input_dir.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) < 2:
        raise InputError(f"{input_dir} has {len(names)} folders, expected one for each of at least two classes")
    return tuple(names)


IMAGE_FOLDER = Dataset("Your own pictures.", read_image_folder)
