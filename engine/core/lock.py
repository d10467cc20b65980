"""Locks of folders: one command at a time works in one, until it ends or dies.

A lock is a file that says which process of which host holds it, and counts up while that process lives. A holder of
this host is gone when its process is; one of another host when its counter stands still for a minute by the clock of
whoever waits, so no two clocks need to agree. Files are only ever created where there is none, and a holder writes to
its own file by its handle: one that was stopped for long and wakes up cannot write over its successor's.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from uuid import uuid4

from engine.core.errors import InputError, WorkError

LOCK = ".lock"
"""Name of the lock of a folder that is locked as a whole; all that belongs to a lock begins with its name."""

BEAT = 5.0
"""Seconds between two counts of a holder."""

STILL = 60.0
"""Seconds for which the counter of a holder on another host must stand still."""

_BYTES = 1024  # of every lock file, so that a count replaces the one before in one piece
_POLL = 1.0


@dataclass(frozen=True)
class Holder:
    token: str = ""  # of this one locking; empty where the file says nothing yet, or nothing that can be read
    host: str = ""  # its name
    machine: str = ""  # start of that host's system and its space of process numbers
    pid: int = 0  # process number there
    start: int = 0  # when the process started, in ticks of that system; 0 where it does not tell
    since: str = ""  # when it took the lock, by its own clock; for people
    count: int = 0  # is raised while it lives

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}" if self.token else "an unknown process"


def process_start(pid: int) -> int | None:
    """When a running process of this host started, in ticks of its system; 0 if unknown, None if none runs."""
    with suppress(OSError, ValueError, IndexError):
        values = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if values[0] in "ZX" else int(values[19])  # a zombie waits only for being told of
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # somebody else's
    return 0


def this_process() -> Holder:
    pid, now = os.getpid(), datetime.now(timezone.utc).isoformat(timespec="seconds")
    return Holder(uuid4().hex, socket.gethostname(), _machine(), pid, process_start(pid) or 0, now)


def read_holder(path: Path) -> Holder | None:
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    with suppress(ValueError, TypeError):
        found = json.loads(content)
        holder = Holder(**{field.name: found[field.name] for field in fields(Holder) if field.name in found})
        if all(type(getattr(holder, field.name)) is type(field.default) for field in fields(Holder)) and holder.pid > 0:
            return holder
    return Holder()


class Lock:
    """A lock that is held; made by `locked`."""

    def __init__(self, path: Path, what: Path, holder: Holder, file: int, beat: float) -> None:
        self._path, self._what, self._holder, self._file = path, what, holder, file
        self._lost = ""
        self._main = threading.current_thread() is threading.main_thread()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._live, args=(beat,), name="lock", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Look whether the lock is still ours; to be called before every write."""
        if not self._lost:
            with suppress(OSError):  # a file server that does not answer now has not given the lock away
                found = read_holder(self._path)
                if found is None:
                    self._lost = f"{self._what}: its lock {self._path.name} was removed while this command held it"
                elif found.token != self._holder.token:
                    self._lost = f"{self._what}: was taken over by {found}"
        if self._lost:
            raise WorkError(f"{self._lost}, so it stopped here, expected nobody else to work there")

    @property
    def lost(self) -> bool:
        return bool(self._lost)

    def release(self) -> None:
        """End counting, and remove the lock if it is still ours."""
        self._ended.set()
        self._thread.join(_POLL)
        with suppress(WorkError, OSError):
            self.check()
            self._path.unlink()
        os.close(self._file)

    def _live(self, beat: float) -> None:
        count = 0
        while not self._ended.wait(beat):
            count += 1
            with suppress(OSError):  # tried again after the next beat
                _write(self._file, replace(self._holder, count=count))
            try:
                self.check()
            except WorkError:
                self._interrupt()
                return

    def _interrupt(self) -> None:
        """Wake the main thread as Ctrl-C does: it may compute for hours before it writes again."""
        if self._main and not self._ended.is_set():
            # A command in the background of a shell ignores Ctrl-C.
            taken = (number for number in (signal.SIGINT, signal.SIGTERM) if callable(signal.getsignal(number)))
            number = next(taken, None)
            ident = threading.main_thread().ident
            if number is not None and ident is not None:
                signal.pthread_kill(ident, number)


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


@contextmanager
def locked(
    path: Path,
    what: Path,
    *,
    say: Callable[[str], None] = _to_stderr,
    beat: float = BEAT,
    still: float = STILL,
) -> Iterator[Lock]:
    """Hold the lock `path` over the body; missing folders above it are made, and go if they stay empty.

    Whether a holder on another host lives takes up to `still` seconds, which is said before. When the lock is taken
    from us, the main thread is interrupted and what leaves here is a WorkError.
    """
    missing = [folder for folder in path.parents if not folder.exists()]
    holder = this_process()
    try:
        with _told(what):
            file = _take(path, what, holder, say, still)
        lock = Lock(path, what, holder, file, beat)
        try:
            try:
                yield lock
            finally:
                lock.release()
        except (Exception, KeyboardInterrupt):
            if lock.lost:
                lock.check()
            raise
    finally:
        for folder in missing:
            with suppress(OSError):  # somebody put something there
                folder.rmdir()


def _take(path: Path, what: Path, holder: Holder, say: Callable[[str], None], still: float) -> int:
    """Make the lock file and return its handle, as soon as nobody who lives holds it."""
    watch = _Watch(still)
    polls = 0
    while (file := _create(path, holder)) is None:
        found = read_holder(path)
        if found is None:
            continue
        lives = watch.lives(found)
        if lives is None:
            polls += 1
            if polls == 2:
                say(f"{what}: is held by {found}; waiting up to {still:g} s to see whether that still lives")
            time.sleep(min(_POLL, still / 20) if polls > 1 else 0.05)  # one just made says in a moment whose it is
        elif lives:
            raise InputError(f"{what}: is held by {found}, expected that to end first")
        else:
            _remove_gone(path, found, still)
    if _takeover(path).exists():  # of somebody who died over it
        with _alone(path, still):
            pass
    return file


class _Watch:
    def __init__(self, still: float) -> None:
        self._still = still
        self._seen: Holder | None = None
        self._looked = self._stood = 0.0

    def lives(self, holder: Holder) -> bool | None:
        """None until it is known."""
        here = this_process()
        if holder.token and (holder.host, holder.machine) == (here.host, here.machine):
            return process_start(holder.pid) in (holder.start, 0)
        before, self._seen = self._seen, holder
        now, looked = time.monotonic(), self._looked
        self._looked = now
        if before is None or before.token != holder.token:
            self._stood = 0.0
            return None
        if before != holder:
            return True
        # Time in which a file server gave neither of us an answer is no time in which it was still.
        self._stood += min(now - looked, 2 * _POLL)
        return None if self._stood < self._still else False


def _remove_gone(path: Path, gone: Holder, still: float) -> None:
    """Remove the lock of a holder that is gone, unless another newcomer did."""
    with _alone(path, still):
        if read_holder(path) == gone:
            path.unlink()


def _takeover(path: Path) -> Path:
    return path.with_name(f"{path.name}-takeover")


@contextmanager
def _alone(path: Path, still: float) -> Iterator[None]:
    """Be the only newcomer to a lock that looks and removes; a lock too, as whoever holds it may die as well."""
    mutex, holder, watch = _takeover(path), this_process(), _Watch(still)
    while (file := _create(mutex, holder)) is None:
        found = read_holder(mutex)
        if found is not None and watch.lives(found) is False:
            _remove_gone(mutex, found, still)
        elif found is not None:
            time.sleep(0.01)
    os.close(file)
    try:
        yield
    finally:
        mutex.unlink(missing_ok=True)


def _create(path: Path, holder: Holder) -> int | None:
    """Make a lock file and return its handle; None if there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    except (FileExistsError, FileNotFoundError):  # or the folder went meanwhile, with whoever made it
        return None
    try:
        _write(file, holder)
    except BaseException:
        os.close(file)
        path.unlink()
        raise
    return file


def _write(file: int, holder: Holder) -> None:
    os.pwrite(file, json.dumps(asdict(holder)).encode().ljust(_BYTES), 0)
    os.close(os.dup(file))  # sends it to a file server, where other hosts look


@contextmanager
def _told(what: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise WorkError(f"{what}: no space is left on the disk for its lock, expected some") from error
        raise InputError(
            f"{what}: cannot be locked ({error.strerror}), expected a folder in which files can be made"
        ) from error


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except (OSError, ValueError):
        return ""
