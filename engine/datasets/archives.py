"""Files in a folder or in the zip archives that lie in it, under one kind of name; nothing is ever unpacked to disk."""

from __future__ import annotations

import functools
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from engine.core.errors import InputError, reason

LARGEST_MEMBER = 64 << 20
"""Bytes; an archive may claim any size."""


@dataclass(frozen=True)
class Entry:
    """A file, or a member of an archive."""

    path: str
    member: str | None = None

    def __str__(self) -> str:
        return self.path if self.member is None else f"{self.path}/{self.member}"


def list_entries(folder: Path) -> dict[str, Entry]:
    """Everything in a folder and below, and in the zip archives directly in it, by path relative to either."""
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
    """The content of a file or member."""
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
