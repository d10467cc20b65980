"""Files and folders that appear whole or not at all: built beside their place, then renamed into it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

_LEFTOVER = re.compile(r"\.(.+)\.(tmp|old)-[0-9a-f]{12}(\.[^.]*)?")


def remove(path: Path) -> None:
    """Delete a file, a symbolic link (not what it points to) or a whole folder; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_at_once(path: Path) -> None:
    """As `remove`, but nobody sees a folder with some of its files gone."""
    if path.is_dir() and not path.is_symlink():
        path = path.rename(_beside(path, "old", path.suffix))
    remove(path)


def remove_leftovers(directory: Path, stems: Collection[str] | None = None) -> None:
    """Delete what killed processes were writing beside its place in a folder; nobody may be writing there now.

    Args:
        directory: the folder; none there is fine.
        stems: of what was written, without suffix; None takes everything.
    """
    for path in directory.iterdir() if directory.is_dir() else ():
        found = _LEFTOVER.fullmatch(path.name)
        if found and (stems is None or found[1] in stems):
            remove(path)


@contextmanager
def replace_file(path: Path, *, keep_suffix: bool = True) -> Iterator[Path]:
    """Yield a temporary name in the same folder; what the body writes there becomes `path` when it succeeds.

    The temporary name keeps the suffix, as some writers choose their format by it, unless `keep_suffix` is false:
    readers that take all files of a suffix then never see an unfinished one. Missing parents are made.
    On any exception, Ctrl-C included, the temporary file is removed and `path` is as before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path, "tmp", path.suffix if keep_suffix else "")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        remove(temporary)
        raise


@contextmanager
def replace_directory(path: Path) -> Iterator[Path]:
    """Yield a new empty folder beside `path`; it takes the place of `path`, old content and all, on success.

    Missing parents are created. On any exception, Ctrl-C included, the new folder is removed and `path` is as
    before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new, old = _beside(path, "tmp", path.suffix), _beside(path, "old", path.suffix)
    try:
        new.mkdir()
        yield new
        _swap(path, new, old)
    except BaseException:
        remove(new)
        raise
    remove(old)


def _swap(path: Path, new: Path, old: Path) -> None:
    """Rename `path` to `old` and `new` to `path`; undo the first when the second fails."""
    try:
        path.rename(old)
    except FileNotFoundError:
        new.rename(path)
        return
    try:
        new.rename(path)
    except BaseException:
        if not path.exists():
            old.rename(path)
        raise


def _beside(path: Path, kind: str, suffix: str) -> Path:
    return path.with_name(f".{path.stem}.{kind}-{uuid4().hex[:12]}{suffix}")
