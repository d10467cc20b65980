"""`prepare gtsrb`: the German Traffic Sign Recognition Benchmark, from its zip archives or what was unpacked of them.

Needed are `Final_Training/Images/<5 digits>/*.ppm`, `Final_Test/Images/*.ppm` and `GT-final_test.csv`, in the folder,
in any folder below it or in zip archives in it. Test file k, in the order of the numbers that are their names, is of
the class that row k of the table gives in its column 8.
"""

from __future__ import annotations

import csv
import functools
import io
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.core.errors import InputError, reason
from engine.core.types import Float32
from engine.data.pictures import decode_picture
from engine.data.preprocess import equalise_crop_resize, preprocess_each
from engine.datasets.division import Official, prepare_official
from engine.datasets.splits import Split

LABEL_NAMES = (
    *(f"Speed limit ({speed}km/h)" for speed in (20, 30, 50, 60, 70, 80)),
    "End of speed limit (80km/h)",
    "Speed limit (100km/h)",
    "Speed limit (120km/h)",
    "No passing",
    "No passing for vechiles over 3.5 metric tons",
    "Right-of-way at the next intersections",
    "Priority road",
    "Yield",
    "Stop",
    "No vechiles",
    "Vechiles over 3.5 metric tons prohibited",
    "No entry",
    "General caution",
    "Dangerous curve to the left",
    "Dangerous curve to the right",
    "Double curve",
    "Bumpy road",
    "Slippery road",
    "Road narrows on the right",
    "Road work",
    "Traffic signals",
    "Pedestrians",
    "Children crossing",
    "Bicycles crossing",
    "Beware of ice/snow",
    "Wild animals crossing",
    "End of all speed and passing limits",
    "Turn right ahead",
    "Turn left ahead",
    "Ahead only",
    "Go straight or right",
    "Go straight or left",
    "Keep right",
    "Keep left",
    "Roundabout mandatory",
    "End of no passing",
    "End of no passing by vechiles over 3.5 metric tons",
)
"""As eAI-Repair-Toolkit spells them."""

_TRAINING = re.compile(r"(?:^|.*/)Final_Training/Images/(\d{5})/[^/]+\.ppm")
_TEST = re.compile(r"(?:^|.*/)Final_Test/Images/(\d+)\.ppm")
_TABLE = re.compile(r"(?:^|.*/)GT-final_test\.csv")
_CLASS_COLUMN = 7
LARGEST_MEMBER = 64 << 20  # bytes; an archive may claim any size


@dataclass(frozen=True)
class Entry:
    path: str
    member: str | None = None

    def __str__(self) -> str:
        return self.path if self.member is None else f"{self.path}/{self.member}"


def read_gtsrb(input_dir: Path, with_test: bool) -> tuple[Split, Split | None]:
    """Training rows, class by class, and test rows in their order."""
    if not input_dir.is_dir():
        raise InputError(f"{input_dir}: no such folder, expected one with the archives of GTSRB")
    entries = list_entries(input_dir)
    training = [(match[1], entry) for path, entry in entries.items() if (match := _TRAINING.fullmatch(path))]
    if not training:
        raise InputError(f"{input_dir} has no Final_Training/Images/<class>/*.ppm, expected the archives of GTSRB")
    training.sort(key=lambda item: (item[0], (item[1].member or item[1].path).rpartition("/")[2]))
    classes = np.array([int(name) for name, _ in training])
    if classes.max() >= len(LABEL_NAMES):
        raise InputError(f"{input_dir} has images of class {classes.max()}, expected 0 to {len(LABEL_NAMES) - 1}")
    test = _test_split(input_dir, entries) if with_test else None
    return Split([entry for _, entry in training], classes), test


def make_signs(entries: Sequence[Entry], *, method: str) -> Float32:
    pictures = (decode_picture(read_entry(entry), str(entry)) for entry in entries)
    if method == "toolkit":
        return np.stack([equalise_crop_resize(picture) for picture in pictures])
    return preprocess_each(pictures, method)


GTSRB = Official(LABEL_NAMES, read_gtsrb, make=make_signs, random_state=0)  # shuffled, as it comes class by class
prepare_gtsrb = functools.partial(prepare_official, GTSRB)


def _test_split(input_dir: Path, entries: Mapping[str, Entry]) -> Split:
    files = {int(match[1]): entry for path, entry in entries.items() if (match := _TEST.fullmatch(path))}
    tables = [entry for path, entry in entries.items() if _TABLE.fullmatch(path)]
    if not files or not tables:
        what = "Final_Test/Images/*.ppm" if not files else "GT-final_test.csv"
        raise InputError(f"{input_dir} has no {what}, expected the archives of GTSRB, or a test ratio of 0")
    classes = _read_classes(tables[0])
    if len(classes) != len(files):
        raise InputError(f"{tables[0]} has {len(classes)} rows, expected {len(files)}, one for each test image")
    return Split([files[number] for number in sorted(files)], np.array(classes))


def _read_classes(table: Entry) -> list[int]:
    try:
        rows = list(csv.reader(io.StringIO(read_entry(table).decode("utf-8-sig")), delimiter=";"))[1:]
        classes = [int(row[_CLASS_COLUMN]) for row in rows if row]
    except (ValueError, IndexError, csv.Error) as error:
        raise InputError(
            f"{table} cannot be read ({reason(error)}), expected ;-separated rows with the class in column 8"
        ) from error
    if not all(0 <= class_number < len(LABEL_NAMES) for class_number in classes):
        raise InputError(f"{table} has a class outside 0 to {len(LABEL_NAMES) - 1}, expected none")
    return classes


def list_entries(folder: Path) -> dict[str, Entry]:
    """By path relative to the folder, or to a zip archive directly in it."""
    entries: dict[str, Entry] = {}
    for archive in sorted(folder.glob("*.zip")):
        with _archive(str(archive)) as members:
            for info in members.infolist():
                if not info.is_dir():
                    entries.setdefault(info.filename, Entry(str(archive.absolute()), info.filename))
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".zip":
            entries[path.relative_to(folder).as_posix()] = Entry(str(path.absolute()))
    return entries


def read_entry(entry: Entry) -> bytes:
    try:
        if entry.member is None:
            return Path(entry.path).read_bytes()
        status = Path(entry.path).stat()
        archive = _kept(entry.path, status.st_size, status.st_mtime_ns)
        if archive.getinfo(entry.member).file_size > LARGEST_MEMBER:
            raise InputError(f"{entry} claims more than {LARGEST_MEMBER >> 20} MiB, expected a picture or a table")
        return archive.read(entry.member)
    except FileNotFoundError:
        raise
    # RuntimeError: a member is encrypted; NotImplementedError: packed in a way that zipfile does not know.
    except (OSError, EOFError, KeyError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{entry} cannot be read ({reason(error)}), expected an undamaged file") from error


@functools.lru_cache(maxsize=4)
def _kept(path: str, size: int, changed: int) -> zipfile.ZipFile:
    """Open archives stay open, unless they changed: listing a large one takes longer than reading a picture from it."""
    del size, changed
    return _archive(path)


def _archive(path: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise InputError(f"{path} is no zip archive ({reason(error)}), expected one, by its name") from error
