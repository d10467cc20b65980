"""Splitting one repair set into numbered chunks, each a folder with its own `repair.h5`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from engine.core.errors import InputError
from engine.core.files import remove, replace_directory
from engine.core.progress import Tick, ignore
from engine.data.image_set import open_image_set, open_reader
from engine.data.writer import copy_rows


def split_chunks(
    source: Path,
    *,
    chunk_size: int = 100,
    chunks: int | None = 10,
    output_dir: Path | None = None,
    overwrite: bool = False,
    progress: Tick = ignore,
) -> list[Path]:
    """Write `<output_dir>/<i>/repair.h5` with rows [chunk_size·i, chunk_size·(i + 1)) of `source`, in order.

    `chunks` limits their number; None makes as many as there are rows for. The last chunk may be shorter;
    empty ones are not written, and rows beyond `chunk_size · chunks` are left out. `output_dir` is by default
    `repairsets` beside `source`. Images and labels keep their dtypes, label names and preprocessing are
    carried over, other datasets are not. All chunks appear at the end, together.

    Numbered folders of an earlier split, which may hold targets and repaired models, are refused; `overwrite`
    deletes all of them, those beyond the new number of chunks included. Returns the new `repair.h5` files.
    `progress` is called with the number of rows just written.

    Raises InputError for a bad source, a size or number below 1, and existing chunks.
    """
    if chunk_size < 1 or (chunks is not None and chunks < 1):
        raise InputError(f"chunk size {chunk_size} and number of chunks {chunks}, expected at least 1 of each")
    image_set = open_image_set(source)
    root = image_set.path.parent / "repairsets" if output_dir is None else output_dir
    stale = _numbered_folders(root)
    if stale and not overwrite:
        raise InputError(
            f"{stale[0]} exists and may hold targets and repaired models, expected an output folder without "
            "chunks, or --overwrite"
        )
    starts = range(0, image_set.rows, chunk_size)[:chunks]
    folders = [root / str(i) for i in range(len(starts))]
    with open_reader(image_set) as reader, ExitStack() as stack:
        for folder, start in zip(folders, starts, strict=True):
            new = stack.enter_context(replace_directory(folder))
            stop = min(start + chunk_size, image_set.rows)
            copy_rows(image_set, reader, range(start, stop), new / "repair.h5", progress)
    for folder in stale:
        if folder not in folders:
            remove(folder)
    return [folder / "repair.h5" for folder in folders]


def _numbered_folders(root: Path) -> list[Path]:
    if root.is_file():
        raise InputError(f"{root} is a file, expected a folder for the chunks")
    if not root.is_dir():
        return []
    found = [path for path in root.iterdir() if path.name.isdecimal()]
    return sorted(found, key=lambda path: int(path.name))
