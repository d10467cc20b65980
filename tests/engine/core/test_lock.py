"""Locks: who gets one, who waits, who is refused, and what a holder does that has lost it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from engine.core.errors import InputError, WorkError
from engine.core.lock import Holder, locked, process_start, read_holder, this_process

HOLD = """
import sys, time
from pathlib import Path
from engine.core.lock import locked
with locked(Path(sys.argv[1]), Path("run")):
    print("held", flush=True)
    time.sleep(60)
"""

RACE = """
import os, sys, time
from pathlib import Path
from engine.core.errors import InputError
from engine.core.lock import locked
path, log, start = Path(sys.argv[1]), os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND), float(sys.argv[3])
time.sleep(max(0.0, start - time.time()))
held = 0
while held < int(sys.argv[4]):
    try:
        with locked(path, path, still=0.2):
            held += 1
            os.write(log, b"+")
            time.sleep(0.002)
            os.write(log, b"-")
            if os.urandom(1)[0] < 40:  # leaves as one that was killed: the next has to take over
                path.write_text(sys.argv[5])
    except InputError:
        time.sleep(0.001)
"""


def run(path: Path) -> subprocess.Popen[str]:
    """A process that holds a lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def write(path: Path, holder: Holder) -> None:
    path.write_text(json.dumps(asdict(holder)), encoding="utf-8")


def take_over(path: Path) -> None:
    """As a newcomer does that finds the holder gone."""
    path.unlink()
    write(path, elsewhere())


def elsewhere(**changes: object) -> Holder:
    return replace(this_process(), host="elsewhere", machine="other", since="2026-01-02T03:04:05+00:00", **changes)


@contextmanager
def counting(path: Path, holder: Holder, every: float) -> Iterator[None]:
    """A living holder on another host."""
    ended = threading.Event()

    def live() -> None:
        count = 0
        while not ended.wait(every):
            count += 1
            beside = path.with_name("beside")
            write(beside, replace(holder, count=count))
            beside.replace(path)

    write(path, holder)
    thread = threading.Thread(target=live)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def unheard(line: str) -> None:
    raise AssertionError(line)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".lock"


def test_it_says_who_holds_it_and_counts(path: Path) -> None:
    with locked(path, Path("run"), beat=0.02):
        first = read_holder(path)
        assert first is not None and (first.pid, first.start) == (os.getpid(), process_start(os.getpid()))
        end = time.monotonic() + 30
        while (later := read_holder(path)) is not None and later.count <= 2 and time.monotonic() < end:
            time.sleep(0.01)
        assert later is not None and later.count > 2 and replace(later, count=0) == first
        with pytest.raises(InputError) as refused, locked(path, Path("run"), say=unheard):
            pass
        assert str(refused.value) == (
            f"run: is held by process {os.getpid()} on {first.host} since {first.since}, expected that to end first"
        )
    assert not path.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_whatever_ends_the_body_frees_it(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a" / "b" / ".lock"
    with pytest.raises(error), locked(path, path):
        raise error
    assert not list(tmp_path.iterdir())
    with locked(path, path):
        (path.parent / "kept").touch()
    assert [found.name for found in path.parent.iterdir()] == ["kept"]


def test_a_living_process_is_refused_and_a_killed_one_followed_at_once(path: Path) -> None:
    holder = run(path)
    os.kill(holder.pid, signal.SIGSTOP)  # not even counting
    with pytest.raises(InputError, match=f"is held by process {holder.pid} on"), locked(path, path, say=unheard):
        pass
    holder.kill()
    time.sleep(0.1)  # not yet waited for: a zombie
    begun = time.monotonic()
    with locked(path, path, say=unheard):
        assert time.monotonic() - begun < 30
    holder.communicate()


def test_a_process_number_used_again_is_another_process(path: Path) -> None:
    me = this_process()
    write(path, replace(me, start=me.start - 1))
    with locked(path, path, say=unheard):
        pass


def test_a_holder_on_another_host_is_followed_when_its_counter_stands_still(path: Path) -> None:
    write(path, elsewhere(count=7))
    said: list[str] = []
    begun = time.monotonic()
    with locked(path, Path("run"), say=said.append, still=0.5):
        assert 0.5 <= time.monotonic() - begun < 30
    assert said == [
        f"run: is held by process {os.getpid()} on elsewhere since 2026-01-02T03:04:05+00:00; waiting up to 0.5 s to "
        "see whether that still lives"
    ]


def test_a_holder_on_another_host_is_left_alone_while_its_counter_moves(path: Path) -> None:
    said: list[str] = []
    with (
        counting(path, elsewhere(), every=0.3),
        pytest.raises(InputError, match=r"is held by process \d+ on elsewhere since 2026"),
        locked(path, path, say=said.append, still=5),
    ):
        pass
    assert len(said) <= 1
    assert read_holder(path) is not None


def test_one_that_ends_meanwhile_is_followed(path: Path) -> None:
    write(path, elsewhere())
    threading.Timer(0.3, path.unlink).start()
    begun = time.monotonic()
    with locked(path, path, say=lambda line: None, still=10):
        assert time.monotonic() - begun < 5


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}', '{"token": "a", "pid": -1}', "\0" * 1024])
def test_a_lock_that_says_nothing_is_that_of_another_host(path: Path, content: str) -> None:
    path.write_text(content)
    said: list[str] = []
    with locked(path, path, say=said.append, still=0.2):
        pass
    assert len(said) == 1 and "is held by an unknown process; waiting" in said[0]


def test_processes_never_hold_it_at_the_same_time(path: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    me = this_process()
    dead = json.dumps(asdict(replace(me, start=me.start - 1)))
    words = [sys.executable, "-c", RACE, path, log, str(time.time() + 1), "30", dead]
    racers = [subprocess.Popen(list(map(str, words))) for _ in range(4)]
    assert [racer.wait(60) for racer in racers] == [0] * 4
    assert log.read_text() == "+-" * 30 * 4


def test_whoever_died_taking_over_is_followed(path: Path) -> None:
    me = this_process()
    dead = replace(me, start=me.start - 1)
    write(path, dead)
    write(path.with_name(".lock-takeover"), dead)
    with locked(path, path, say=unheard):
        pass
    assert not list(path.parent.iterdir())
    write(path.with_name(".lock-takeover"), dead)  # after it had removed the lock
    with locked(path, path, say=unheard):
        pass
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize(
    ("take", "says"),
    [
        (Path.unlink, "its lock .lock was removed while this command held it"),
        (take_over, "was taken over by process"),
    ],
)
def test_a_holder_that_has_lost_it_stops_by_itself(path: Path, take: Callable[[Path], None], says: str) -> None:
    begun = time.monotonic()
    with pytest.raises(WorkError, match=says), locked(path, path, beat=0.05):
        take(path)
        time.sleep(30)
    assert time.monotonic() - begun < 10
    assert path.exists() == ("taken" in says)


def test_a_check_finds_it_before_the_next_beat(path: Path) -> None:
    with pytest.raises(WorkError, match="so it stopped here, expected nobody else to work there"):  # noqa: SIM117
        with locked(path, path) as lock:
            lock.check()
            take_over(path)
            assert not lock.lost
            lock.check()


def test_a_holder_that_wakes_up_does_not_write_over_its_successor(path: Path) -> None:
    holder = run(path)
    os.kill(holder.pid, signal.SIGSTOP)
    path.unlink()
    with locked(path, path, beat=0.1) as lock:
        os.kill(holder.pid, signal.SIGCONT)
        time.sleep(0.5)
        lock.check()
        holder.terminate()
        holder.communicate()
        lock.check()


def test_a_folder_in_which_no_file_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"x: cannot be locked \(.*\), expected a folder in which files can be made"):  # noqa: SIM117
        with locked(tmp_path / "file" / "run" / ".lock", Path("x")):
            pass


def test_processes_of_this_host() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert process_start(ended.pid) is None
    assert process_start(1) is not None
