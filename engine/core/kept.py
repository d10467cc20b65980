"""Files kept between runs: what is found there is whole and as it was written, or it is not found.

They only save time. So whatever goes wrong with them (a full disk, a folder that cannot be written, a damaged file) is
as if they were not there, and nobody is told.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from engine.core.files import replace_file

VARIABLE = "REPAIR_DIST_CACHE"
"""The environment's name for the folder; `off`, or nothing, keeps no files."""

LIMIT = 128 << 20
"""Bytes of all files kept; the least lately used ones make room."""

ROOM = 256 << 20
"""Bytes that stay free on the disk."""

SUFFIX = ".kept"

_MARK = b"repair-dist kept 1\n"


def kept_folder() -> Path | None:
    """Where files are kept: `programs` in REPAIR_DIST_CACHE, or else in `repair-dist` in the user's folder of caches;
    None for nowhere.

    Its files are run as programs, so a folder that others may write is none.
    """
    stated = os.environ.get(VARIABLE)
    if stated is not None:
        folder = None if stated in ("", "off") else Path(stated).absolute()
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", ""))
        try:
            folder = (base if base.is_absolute() else Path.home() / ".cache") / "repair-dist"
        except RuntimeError:  # a user without a home
            return None
    if folder is None:
        return None
    folder /= "programs"
    try:
        found = folder.stat()
    except FileNotFoundError:
        return folder  # it is made when there is something to keep, and looked at again
    except OSError:
        return None
    return folder if stat.S_ISDIR(found.st_mode) and _ours(found) else None


def _ours(found: os.stat_result) -> bool:
    """Whether only this user can have written it."""
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


@dataclass(frozen=True)
class Kept:
    """Files by name, in a folder that any number of processes read and write at once."""

    folder: Path | None  # of this user alone; None keeps nothing
    limit: int = LIMIT  # bytes of all files together

    def get(self, name: str) -> bytes | None:
        """What was kept under a name; None where there is nothing, or others may have written it."""
        if self.folder is None:
            return None
        path = self._path(self.folder, name)
        try:
            content = _read(path)
        except OSError:
            return None
        head = len(_MARK) + hashlib.sha256().digest_size
        kept = content[head:]
        if content[:head] != _MARK + _digest(name, kept):
            self.drop(name)
            return None
        with suppress(OSError):
            os.utime(path)  # used now
        return kept

    def put(self, name: str, content: bytes) -> None:
        """Keep what is not larger than a quarter of all, if there is room on the disk."""
        if self.folder is None or len(content) > self.limit // 4:
            return
        with suppress(OSError):
            _make(self.folder)
            if shutil.disk_usage(self.folder).free < ROOM + len(content):
                return
            self._make_room(self.folder, len(content))
            with replace_file(self._path(self.folder, name)) as temporary:
                temporary.touch(0o600, exist_ok=False)
                temporary.write_bytes(_MARK + _digest(name, content) + content)

    def drop(self, name: str) -> None:
        if self.folder is not None:
            with suppress(OSError):
                self._path(self.folder, name).unlink(missing_ok=True)

    @staticmethod
    def _path(folder: Path, name: str) -> Path:
        return folder / f"{name}{SUFFIX}"

    def _make_room(self, folder: Path, needed: int) -> None:
        """Delete the least lately used files, and what a killed process left half written, until there is room."""
        found = []
        for path in folder.glob(f"*{SUFFIX}"):
            with suppress(OSError):  # another process has deleted it
                state = path.stat()
                found.append((state.st_mtime, state.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, freed, path in sorted(found):
            if total + needed <= self.limit:
                return
            with suppress(OSError):
                path.unlink()
            total -= freed


def _read(path: Path) -> bytes:
    """The content of a file, where both it and its folder are ours.

    What is looked at is what is read: names may have been given to something else meanwhile.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not _ours(os.fstat(folder)):
            raise PermissionError(path.parent)
        with os.fdopen(os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder), "rb") as file:
            if not _ours(os.fstat(file.fileno())):
                raise PermissionError(path)
            return file.read()
    finally:
        os.close(folder)


def _make(folder: Path) -> None:
    for missing in [*(above for above in reversed(folder.parents) if not above.exists()), folder]:
        missing.mkdir(mode=0o700, exist_ok=True)
    if not _ours(folder.stat()):
        raise PermissionError(folder)


def _digest(name: str, content: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\0" + content).digest()
