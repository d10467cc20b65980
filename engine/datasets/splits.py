"""The splits of a data set: `train.h5`, `val.h5`, `test.h5` and `repair.h5`, from any source of pictures.

The HDF5 file of a split is laid out first, with its labels and ids and with room for its images. Blocks of images are
then written to their places in it, in any order: how many workers make them changes no byte, and a process that dies
at any moment leaves a sound file in which the blocks that the journal names are in place.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from engine.core.errors import InputError
from engine.core.files import replace_file
from engine.core.parallel import ParallelMap, in_process
from engine.core.progress import Progress, Tick, unseen
from engine.core.resumable import work_folder
from engine.core.types import Float32, Int64
from engine.data.preprocess import SIZE, Size
from engine.data.writer import write_attributes

NAMES = ("train", "val", "test", "repair")
DEFAULT_RATIO = (0.5, 0.1, 0.2, 0.2)
WRITE_ROWS = 250
"""Rows made at once."""

_ANEW = -1
"""In the journal, in place of the first row of a block: the file is laid out, and no block made before is in it."""

Ratio = tuple[float, float, float, float]
Make = Callable[[Any], Float32]


@dataclass(frozen=True, eq=False)
class Split:
    # n things that `make` turns into images, in the order of the rows; slices of it must be picklable
    sources: Sequence[Any] | npt.NDArray[Any]
    labels: Int64  # (n,) int64, classes
    image_ids: Sequence[str] | None = None  # image_ids, attribute_ids: n texts each, or None to leave the dataset out
    attribute_ids: Sequence[str] | None = None


@dataclass(frozen=True)
class Layout:
    label_names: tuple[str, ...]  # one per class
    preprocess: str  # how the pixels are made, for the attribute of this name
    size: Size = SIZE  # height and width of the images
    label_dtype: str = "uint8"  # of the one-hot labels


def check_ratio(ratio: Ratio) -> None:
    """Raise InputError unless the four shares are from 0 to 1 and sum to 1 within 1e-9."""
    text = ",".join(f"{share:g}" for share in ratio)
    if len(ratio) != len(NAMES) or not all(0 <= share <= 1 for share in ratio):
        raise InputError(f"data ratio {text}, expected four numbers from 0 to 1 (train,val,test,repair)")
    if abs(math.fsum(ratio) - 1) > 1e-9:
        raise InputError(f"data ratio {text}, which sums to {math.fsum(ratio):.6g}, expected a sum of 1")


def shuffled(count: int, random_state: int) -> Int64:
    """Row numbers (count,) in the order into which `numpy.random.default_rng(random_state)` shuffles them."""
    if random_state < 0:
        raise InputError(f"random_state is {random_state}, expected 0 or more")
    order = np.arange(count)
    np.random.default_rng(random_state).shuffle(order)
    return order


def cut(count: int, ratio: Ratio, *, keep_all: bool) -> dict[str, slice]:
    """Stretches of `count` shuffled rows for each split that gets any.

    They end at a = int(count·train), b = int(count·val + a), c = int(count·test + b) and, if repair is above 0, at
    count, as in eAI-Repair-Toolkit 1.1.0: without a repair split a few rows are left over. With `keep_all` the last
    split of a ratio above 0 takes them.
    """
    a = int(count * ratio[0])
    b = int(count * ratio[1] + a)
    c = min(int(count * ratio[2] + b), count)  # a float sum a little above 1
    ends = [a, b, c, count if ratio[3] > 0 else c]
    if keep_all:
        last = max(k for k in range(4) if ratio[k] > 0)
        ends[last:] = [count] * (4 - last)
    splits = {name: slice(start, stop) for name, start, stop in zip(NAMES, [0, *ends], ends, strict=False)}
    return {name: rows for name, rows in splits.items() if rows.stop > rows.start}


def write_splits(
    output_dir: Path,
    splits: Mapping[str, Split],
    layout: Layout,
    make: Make,
    *,
    job: Mapping[str, Any],
    overwrite: bool = False,
    spread: ParallelMap = in_process,
    progress: Progress = unseen,
) -> dict[str, int]:
    """Write `<split>.h5` for every split and return its rows; other files in `output_dir` stay.

    `images` are float32 (n, height, width, 3), `labels` one-hot (n, classes), contiguous; `image_ids` and
    `attribute_ids` variable-length UTF-8. `make` turns a stretch of a split's sources into images and must be
    picklable. `job` says what the splits are made of: work that was interrupted goes on if it is the same.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise InputError(f"{output_dir} is no folder, expected one for the parts or none yet")
    empty = [name for name, split in splits.items() if len(split.labels) == 0]
    if empty or not splits:
        raise InputError(f"{output_dir / ((empty or ['train'])[0] + '.h5')} would have 0 rows, expected at least one")
    for name in splits:
        path = output_dir / f"{name}.h5"
        if path.exists() and not overwrite and not is_ours(path):
            raise InputError(f"{path} exists and was not made by prepare, expected another folder or --overwrite")
    full_job = {
        **job,
        "layout": [*layout.label_names, layout.preprocess, *layout.size, layout.label_dtype],
        "parts": {name: len(split.labels) for name, split in splits.items()},
        "versions": {name: version(name) for name in ("numpy", "pillow", "scikit-image")},
    }
    tick = progress("prepare", sum(len(split.labels) for split in splits.values()))
    with work_folder(output_dir / "prepare", full_job) as work:
        for name in {name for name, _ in _done(work.records())}:
            if not (work.path / f"{name}.h5").exists():  # the process died while it moved the files to their places
                work.record([name, _ANEW])
        places = {name: _lay_out(work.path / f"{name}.h5", split, layout) for name, split in splits.items()}
        done = _done(work.records())
        pieces = _pieces(splits, done, tick)
        count = sum(-(-len(split.labels) // WRITE_ROWS) for split in splits.values()) - len(done)
        for piece, images in spread(_Maker(make), pieces, count):
            with (work.path / f"{piece.split}.h5").open("rb+") as file:
                file.seek(places[piece.split] + piece.start * images[0].nbytes)
                file.write(np.ascontiguousarray(images, "<f4").data)
            work.record([piece.split, piece.start])
            tick(len(images))
        output_dir.mkdir(parents=True, exist_ok=True)
        for name in splits:
            (work.path / f"{name}.h5").replace(output_dir / f"{name}.h5")
    return {name: len(split.labels) for name, split in splits.items()}


def is_ours(path: Path) -> bool:
    """Whether a file is an image set that says how its pixels were made, as ours do."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            return "preprocess" in file.attrs
    except OSError:
        return False


@dataclass(frozen=True, eq=False)
class _Piece:
    split: str
    start: int
    sources: Any


@dataclass(frozen=True)
class _Maker:
    make: Make

    def __call__(self, piece: _Piece) -> Float32:
        return self.make(piece.sources)


def _pieces(splits: Mapping[str, Split], done: set[tuple[str, int]], tick: Tick) -> Iterator[_Piece]:
    for name, split in splits.items():
        for start in range(0, len(split.labels), WRITE_ROWS):
            sources = split.sources[start : start + WRITE_ROWS]
            if (name, start) in done:
                tick(len(sources))
            else:
                yield _Piece(name, start, sources)


def _done(records: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
    """Split and first row of the blocks that are in their files."""
    done: set[tuple[str, int]] = set()
    for name, start in records:
        if start == _ANEW:
            done = {block for block in done if block[0] != name}
        else:
            done.add((name, start))
    return done


def _check_room(path: Path, size: int) -> None:
    """Raise OSError where a disk has no room for a file: HDF5 finds out late, and complains on standard error."""
    if shutil.disk_usage(path.parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _lay_out(path: Path, split: Split, layout: Layout) -> int:
    """Make the file of a split, unless an earlier command did; returns where in it the images begin, in bytes."""
    if not path.exists():
        _check_room(path, len(split.labels) * 4 * 3 * math.prod(layout.size))
        with replace_file(path) as temporary, h5py.File(temporary, "w", locking=False) as file:
            rows, classes = len(split.labels), len(layout.label_names)
            settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            settings.set_layout(h5py.h5d.CONTIGUOUS)
            settings.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            settings.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            settings.set_obj_track_times(False)
            space = h5py.h5s.create_simple((rows, *layout.size, 3))
            h5py.h5d.create(file.id, b"images", h5py.h5t.IEEE_F32LE, space, settings)
            one_hot = np.zeros((rows, classes), layout.label_dtype)
            one_hot[np.arange(rows), split.labels] = 1
            file.create_dataset("labels", data=one_hot)
            for name, texts in (("image_ids", split.image_ids), ("attribute_ids", split.attribute_ids)):
                if texts is not None:
                    file.create_dataset(name, data=list(texts), dtype=h5py.string_dtype())
            write_attributes(file, layout.label_names, layout.preprocess)
    with h5py.File(path, "r", locking=False) as file:
        return int(file["images"].id.get_offset())
