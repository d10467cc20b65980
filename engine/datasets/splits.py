"""The splits of a data set: `train.h5`, `val.h5`, `test.h5` and `repair.h5`, from any source of pictures.

The HDF5 file of a split is laid out first, with its labels and ids and with room for its images. Blocks of images are
then written to their places in it, in any order: how many workers make them changes no byte, and a process that dies
at any moment leaves a sound file in which the blocks that the journal names are in place.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import h5py
import numpy as np
import numpy.typing as npt

from engine.core.errors import InputError, reason
from engine.core.files import replace_file
from engine.core.parallel import ParallelMap, in_process
from engine.core.progress import Progress, Tick, unseen
from engine.core.resumable import work_folder
from engine.core.types import Float32, Int64
from engine.data.preprocess import SIZE, Size
from engine.data.writer import write_attributes

if TYPE_CHECKING:
    from typing_extensions import Unpack

WRITE_ROWS = 250  # rows made at once
_ANEW = -1
"""In the journal, in place of the first row of a block: the file is laid out, and no block made before is in it."""

Make = Callable[[Any], Float32]


class Writing(TypedDict, total=False):
    overwrite: bool  # replace files that `prepare` did not make
    spread: ParallelMap
    progress: Progress


@dataclass(frozen=True, eq=False)
class Split:
    # pixels (n, ...), or n paths or other things with a `path`, in the order of the rows; slices must be picklable
    sources: Sequence[Any] | npt.NDArray[Any]
    labels: Int64  # (n,) int64, classes
    image_ids: Sequence[str] | None = None  # image_ids, attribute_ids: n texts each, or None to leave the dataset out
    attribute_ids: Sequence[str] | None = None

    def some(self, rows: Int64) -> Split:
        array = isinstance(self.sources, np.ndarray)
        return Split(
            self.sources[rows] if array else [self.sources[row] for row in rows],  # type: ignore[call-overload]
            self.labels[rows],
            self.image_ids and [self.image_ids[row] for row in rows],
            self.attribute_ids and [self.attribute_ids[row] for row in rows],
        )


@dataclass(frozen=True)
class Layout:
    label_names: tuple[str, ...]  # one per class
    preprocess: str  # how the pixels are made, for the attribute of this name
    size: Size = SIZE  # height and width of the images
    label_dtype: str = "uint8"  # of the one-hot labels


def write_splits(
    output_dir: Path, splits: Mapping[str, Split], layout: Layout, make: Make, **how: Unpack[Writing]
) -> dict[str, int]:
    """Write `<split>.h5` for every split and return its rows; other files in `output_dir` stay.

    `make` turns a stretch of sources into images and must be picklable. Interrupted work goes on if all is the same.
    """
    overwrite, spread, progress = how.get("overwrite"), how.get("spread", in_process), how.get("progress", unseen)
    if output_dir.exists() and not output_dir.is_dir():
        raise InputError(f"{output_dir} is no folder, expected one for the parts or none yet")
    empty = [name for name, split in splits.items() if len(split.labels) == 0]
    if empty or not splits:
        raise InputError(f"{output_dir / ((empty or ['train'])[0] + '.h5')} would have 0 rows, expected at least one")
    for name in splits:
        path = output_dir / f"{name}.h5"
        if path.exists() and not overwrite and not is_ours(path):
            raise InputError(f"{path} exists and was not made by prepare, expected another folder or --overwrite")
    job = {
        "sources": _digest(splits),
        "layout": [*layout.label_names, layout.preprocess, *layout.size, layout.label_dtype],
        "parts": {name: len(split.labels) for name, split in splits.items()},
        "versions": {name: version(name) for name in ("numpy", "pillow", "scikit-image")},
    }
    tick = progress("prepare", sum(len(split.labels) for split in splits.values()))
    with work_folder(output_dir / "prepare", job) as work:
        for name in {name for name, _ in _done(work.records())}:
            if not (work.path / f"{name}.h5").exists():  # the process died while it moved the files to their places
                work.record([name, _ANEW])
        places = {name: _lay_out(work.path / f"{name}.h5", split, layout) for name, split in splits.items()}
        done = _done(work.records())
        pieces = _pieces(splits, done, tick)
        count = sum(-(-len(split.labels) // WRITE_ROWS) for split in splits.values()) - len(done)
        for piece, images in spread(functools.partial(_made, make), pieces, count):
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
    """Ours say how their pixels were made."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            return "preprocess" in file.attrs
    except OSError:
        return False


def _digest(splits: Mapping[str, Split]) -> str:
    """Of the pixels, or the names, sizes and times of change of the files, and of labels and ids, in their order."""
    digest = hashlib.sha256()
    stamp = functools.cache(_stamp)
    for split in splits.values():
        if isinstance(split.sources, np.ndarray):
            digest.update(np.ascontiguousarray(split.sources).data)
        else:
            for source in split.sources:
                digest.update(repr((str(source), stamp(getattr(source, "path", source)))).encode())
        digest.update(np.ascontiguousarray(split.labels).data)
        digest.update(repr((split.image_ids, split.attribute_ids)).encode())
    return digest.hexdigest()


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = Path(path).stat()
    except (OSError, ValueError) as error:  # a ValueError for a null character
        raise InputError(f"{path} cannot be read ({reason(error)}), expected a picture") from error
    return status.st_size, status.st_mtime_ns


@dataclass(frozen=True, eq=False)
class _Piece:
    split: str
    start: int
    sources: Any


def _made(make: Make, piece: _Piece) -> Float32:
    return make(piece.sources)


def _pieces(splits: Mapping[str, Split], done: set[tuple[str, int]], tick: Tick) -> Iterator[_Piece]:
    for name, split in splits.items():
        for start in range(0, len(split.labels), WRITE_ROWS):
            sources = split.sources[start : start + WRITE_ROWS]
            if (name, start) in done:
                tick(len(sources))
            else:
                yield _Piece(name, start, sources)


def _done(records: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
    done: set[tuple[str, int]] = set()
    for name, start in records:
        if start == _ANEW:
            done = {block for block in done if block[0] != name}
        else:
            done.add((name, start))
    return done


def _check_room(path: Path, size: int) -> None:
    """HDF5 finds out late, and complains on standard error."""
    if shutil.disk_usage(path.parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _lay_out(path: Path, split: Split, layout: Layout) -> int:
    """Unless an earlier command did; returns where in the file the images begin, in bytes."""
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
