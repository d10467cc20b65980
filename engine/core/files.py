"""Files and folders that appear whole or not at all: built beside their place, then renamed into it."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

_LEFTOVER = re.compile(r"\.(.+)\.(tmp|old)-[0-9a-f]{12}(\.[^.]*)?")


def disk_is_full(error: BaseException) -> bool:
    """Whether an exception says that no more can be written, in whatever way its library says so."""
    stated = re.search(r"\berrno = (\d+)", str(error))  # HDF5
    number = int(stated[1]) if stated else getattr(error, "errno", None)
    return number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "No space left" in str(error)


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
    """Delete what killed processes were writing beside its place in a folder; nobody may be writing there now."""
    for path in directory.iterdir() if directory.is_dir() else ():
        found = _LEFTOVER.fullmatch(path.name)
        if found and (stems is None or found[1] in stems):
            remove(path)


def is_leftover(path: Path) -> bool:
    """Whether a name is one that a file or folder has while it is made beside its place."""
    return _LEFTOVER.fullmatch(path.name) is not None


@contextmanager
def replace_file(path: Path, *, keep_suffix: bool = True) -> Iterator[Path]:
    """Yield a temporary name in the same folder; what the body writes there becomes `path` when it succeeds.

    It keeps the suffix, as some writers choose their format by it, unless `keep_suffix` is false: readers that take all
    files of a suffix then never see an unfinished one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path, "tmp", path.suffix if keep_suffix else "")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException as error:
        _give_up(error, path, temporary)
        raise


@contextmanager
def replace_directory(path: Path) -> Iterator[Path]:
    """Yield a new empty folder beside `path`; it takes the place of `path`, old content and all, on success."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new, old = _beside(path, "tmp", path.suffix), _beside(path, "old", path.suffix)
    try:
        new.mkdir()
        yield new
        _swap(path, new, old)
    except BaseException as error:
        _give_up(error, path, new)
        raise
    remove(old)


def _give_up(error: BaseException, path: Path, temporary: Path) -> None:
    """Remove what is unfinished, and let an error of the system name the path itself: a full disk names none."""
    with suppress(OSError):  # nothing can be removed from a disk that is read-only
        remove(temporary)
    if isinstance(error, OSError):
        named = str(temporary if error.filename is None else error.filename)
        error.filename = named.replace(str(temporary), str(path), 1)


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
