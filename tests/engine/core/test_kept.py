"""Files kept between runs: whole and as they were written, or not found; never an error."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from pathlib import Path

import pytest

from engine.core import kept as module
from engine.core.kept import SUFFIX, Kept, kept_folder


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "programs")


def only_file(kept: Kept) -> Path:
    assert kept.folder is not None
    (path,) = kept.folder.iterdir()
    return path


def test_what_is_put_is_found(kept: Kept) -> None:
    assert kept.get("a") is None
    for content in (b"", b"one", bytes(range(256)) * 100):
        kept.put("a", content)
        assert kept.get("a") == content
    assert kept.get("b") is None
    kept.drop("a")
    assert kept.get("a") is None


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "longer", "of another name"])
def test_a_damaged_file_is_deleted(kept: Kept, damage: str) -> None:
    kept.put("a", bytes(1000))
    path = only_file(kept)
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-500] ^= 1
    elif damage == "truncated":
        del content[-1:]
    elif damage == "empty":
        content.clear()
    elif damage == "longer":
        content += b"x"
    else:
        path = path.replace(path.with_name(f"b{SUFFIX}"))
    path.write_bytes(content)
    name = path.name.removesuffix(SUFFIX)
    assert kept.get(name) is None
    assert not path.exists()
    kept.put(name, b"again")
    assert kept.get(name) == b"again"


def test_the_least_lately_used_make_room(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "programs", limit=5000)
    (tmp_path / "programs").mkdir(mode=0o700)
    (tmp_path / "programs" / "somebody's").write_bytes(bytes(4000))
    for number, name in enumerate("abcd"):
        kept.put(name, bytes(1000))
        os.utime(tmp_path / "programs" / f"{name}{SUFFIX}", (number, number))
    assert kept.get("a") == bytes(1000)  # and is used now
    kept.put("e", bytes(1000))
    assert [name for name in "abcde" if kept.get(name) is not None] == ["a", "c", "d", "e"]
    kept.put("f", bytes(2000))  # more than a quarter of all
    assert kept.get("f") is None
    assert (tmp_path / "programs" / "somebody's").exists()


@pytest.mark.parametrize("writable", ["programs", f"programs/a{SUFFIX}"])
def test_what_others_may_write_is_not_read(kept: Kept, tmp_path: Path, writable: str) -> None:
    kept.put("a", b"one")
    assert (tmp_path / f"programs/a{SUFFIX}").stat().st_mode & 0o777 == 0o600
    (tmp_path / writable).chmod(0o772)
    assert kept.get("a") is None
    kept.put("a", b"two")
    (tmp_path / "programs").chmod(0o700)
    assert kept.get("a") == (b"one" if writable == "programs" else b"two")


def test_links_are_not_followed(kept: Kept, tmp_path: Path) -> None:
    kept.put("a", b"one")
    only_file(kept).rename(tmp_path / "elsewhere")
    (tmp_path / f"programs/a{SUFFIX}").symlink_to(tmp_path / "elsewhere")
    assert kept.get("a") is None


def test_of_another_user(kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.put("a", b"one")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert kept.get("a") is None
    kept.put("b", b"two")
    monkeypatch.undo()
    assert (kept.get("a"), kept.get("b")) == (b"one", None)


def test_nowhere_and_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for kept in (Kept(None), Kept(tmp_path / "file"), Kept(tmp_path / "file" / "below"), Kept(Path("/proc/programs"))):
        kept.put("a", b"one")
        assert kept.get("a") is None
        kept.drop("a")
    assert (tmp_path / "file").read_bytes() == b""


def test_a_full_disk(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.put("a", b"one")
    full = shutil.disk_usage("/")._replace(free=module.ROOM)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    kept.put("b", b"two")
    assert kept.get("a") == b"one"
    assert kept.get("b") is None
    monkeypatch.undo()

    def fail(path: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    kept.put("a", b"two")
    assert kept.get("a") == b"one"
    only_file(kept)  # nothing is left of what could not be written


def _many(folder: Path, number: int) -> None:
    kept = Kept(folder, limit=8_000)  # three files
    for turn in range(60):
        name = f"n{turn % 7}"
        kept.put(name, name.encode() * 1000)
        found = kept.get(f"n{(turn + number) % 7}")
        assert found is None or found == f"n{(turn + number) % 7}".encode() * 1000


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_many, args=(tmp_path / "programs", number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    kept = Kept(tmp_path / "programs")
    left = list((tmp_path / "programs").iterdir())
    assert 1 <= len(left) < 7
    assert all(kept.get(path.name.removesuffix(SUFFIX)) for path in left)


def test_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPAIR_DIST_CACHE", str(tmp_path))
    assert kept_folder() == tmp_path / "programs"
    Kept(kept_folder()).put("a", b"one")
    assert (tmp_path / "programs").stat().st_mode & 0o777 == 0o700
    assert kept_folder() == tmp_path / "programs"
    (tmp_path / "programs").chmod(0o770)  # others could write programs that we would run
    assert kept_folder() is None
    for nowhere in ("off", ""):
        monkeypatch.setenv("REPAIR_DIST_CACHE", nowhere)
        assert kept_folder() is None
    monkeypatch.delenv("REPAIR_DIST_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert kept_folder() == tmp_path / "xdg" / "repair-dist" / "programs"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert kept_folder() == tmp_path / "home" / ".cache" / "repair-dist" / "programs"
    Kept(kept_folder()).put("a", b"one")
    for made in ("home/.cache", "home/.cache/repair-dist"):
        assert (tmp_path / made).stat().st_mode & 0o777 == 0o700
