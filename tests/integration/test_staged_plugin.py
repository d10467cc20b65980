"""A method of another package that yields work in stages: killed anywhere and resumed, it comes to the same bits."""

from __future__ import annotations

import io
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.main import run
from cluster.records.store import read_facts
from engine.methods.registry import GROUP
from tests.support import staged_method
from tests.support.batches import At, doomed
from tests.support.digests import files_of
from tests.support.plugins import Site

COMMANDS = {
    "optimize": ["optimize", "--target-data-dir", "data/negative/6"],
    "batch": ["batch", "--chunks", "data", "--labels", "6"],
}
GRADIENTS, LINES, JUDGED = (
    {f"{name}-s{seed}" for name in names for seed in (0, 1)}
    for names in (
        [f"gradient-{number}" for number in range(4)],
        [f"line-{number}" for number in range(5)],
        [f"judge-{number}-{half}" for number in range(3) for half in (0, 1)],
    )
)
"""Work of each stage, of two seeds together."""
ALL = GRADIENTS | LINES | JUDGED


def of_seeds(seeds: int, works: set[str] = ALL) -> set[str]:
    return {name for name in works if int(name[-1]) < seeds}


AMONG_LINES = "*line-*.npz", 4
"""The moment before the fourth result of a line search is kept."""


@dataclass(frozen=True)
class Ended:
    code: int
    err: str
    ran: list[str]  # names of the pieces of work
    kept: set[str]  # of those whose results are there
    left: dict[str, str]  # digests of the patch, the tables and the model, and the names of all files


def run_here(words: list[str], environment: dict[str, str]) -> tuple[int, str]:
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(said), redirect_stdout(io.StringIO()):
        for name, value in environment.items():
            patch.setenv(name, value)
        return run(words), said.getvalue()


@dataclass(frozen=True)
class Runner:
    """Runs commands by the method: in processes of their own those that are killed, or have workers."""

    prepared: Path
    site: Path

    def run(
        self, root: Path, command: str, workers: int, *more: str, at: At = 0, seeds: int = 2, **variables: str
    ) -> Ended:
        """Run a command that leaves `root/run` and `root/out`, with environment variables; `at` as of `doomed`."""
        words = [*COMMANDS[command], "--method", "staged", "--seeds", str(seeds), "--model-dir", "model.keras", *more]
        places = ["--output-dir", root / "run"]
        if command == "optimize":
            places = ["--output-dir", root / "out", "--run-dir", root / "run"]
        words = [str(self.prepared / word) if word.startswith(("data", "model.keras")) else word for word in words]
        words += ["--num-workers", str(workers), *map(str, places)]
        # A file for each run: the workers of a driver that was killed may still write to that of the run before.
        calls = root.with_suffix(f".calls-{len(list(root.parent.glob(f'{root.name}.calls-*')))}")
        calls.touch()
        environment = {"PYTHONPATH": str(self.site), "STAGED_CALLS": str(calls), **variables}
        if at or workers:
            done = doomed(at, root, words, environment=environment)
            code, err = done.returncode, done.stderr
        else:
            code, err = run_here(words, environment)
        files = {path.relative_to(root): path for path in root.rglob("*")}
        whole = " ".join(path.name for path in files if not path.name.startswith("."))
        kept = {name for name in ALL if f"_{name}-" in whole}
        left = dict(files_of(root)) | {"files": str(sorted(map(str, files)))}
        return Ended(code, err, calls.read_text(encoding="utf-8").split(), kept, left)


@pytest.fixture(scope="module")
def runner(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """With the method installed where the processes of all commands find it."""
    with pytest.MonkeyPatch.context() as patch:
        site = Site(tmp_path_factory.mktemp("plug-in") / "site", patch)
        code = Path(staged_method.__file__).read_text(encoding="utf-8")
        site.install("staged-repair", {"staged": "staged_repair:METHOD"}, code, group=GROUP)
        yield Runner(prepared, site.folder)


@pytest.fixture(scope="module")
def undisturbed(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Ended]:
    """By command and number of seeds, one in a single process that every other one must equal; run when asked for."""

    class Alone(dict[tuple[str, int], Ended]):
        def __missing__(self, key: tuple[str, int]) -> Ended:
            command, seeds = key
            root = tmp_path_factory.mktemp("undisturbed") / "root"
            found = self[key] = runner.run(root, command, 0, seeds=seeds)
            assert found.code == 0, found.err
            assert sorted(found.ran) == sorted(of_seeds(seeds)) and not found.kept
            assert "run/patch.arrow" in found.left["files"] and "repair/model.keras" in found.left["files"]
            return found

    return Alone()


def test_killed_and_resumed(runner: Runner, undisturbed: dict[tuple[str, int], Ended], tmp_path: Path) -> None:
    root = tmp_path / "root"
    stopped = runner.run(root, "optimize", 0, at=AMONG_LINES)
    assert stopped.code == -signal.SIGKILL and read_facts(root / "run")["state"] == "running"
    assert stopped.kept > GRADIENTS and len(stopped.kept & LINES) == 3
    other = runner.run(root, "optimize", 0, "--resume", STAGED_OTHER="arguments")
    assert (other.code, other.ran, other.kept) == (2, [], stopped.kept)
    said = "line-0-s0 is another line search than the one whose result was kept, expected the same to resume\n"
    assert other.err.endswith(f"error: {root / 'run'}: staged-s0/{said}")
    resumed = runner.run(root, "optimize", 0, "--resume")
    assert resumed.code == 0, resumed.err
    assert sorted(resumed.ran) == sorted((LINES | JUDGED) - stopped.kept)
    assert resumed.left == undisturbed["optimize", 2].left


def test_work_of_another_name_is_other_work(
    runner: Runner, undisturbed: dict[tuple[str, int], Ended], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    stopped = runner.run(root, "optimize", 0, at=AMONG_LINES)
    assert stopped.code == -signal.SIGKILL
    other = runner.run(root, "optimize", 0, "--resume", STAGED_OTHER="names")
    assert other.code == 0, other.err
    assert sorted(other.ran) == sorted({name.replace("line", "other") for name in LINES} | JUDGED)
    assert other.left == undisturbed["optimize", 2].left


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "killed"),
    [("optimize", ()), ("optimize", ("worker",)), ("optimize", ("driver",)), ("batch", ("driver", "worker"))],
)
def test_on_two_workers(
    runner: Runner, undisturbed: dict[tuple[str, int], Ended], tmp_path: Path, command: str, killed: tuple[str, ...]
) -> None:
    # With one seed, work of one stage alone is under way: it is known what has ended, and what a worker takes with it.
    seeds = 1 if killed else 2
    root, marker, kept, more = tmp_path / "root", tmp_path / "marker", set[str](), list[str]()
    if "driver" in killed:
        stopped = runner.run(root, command, 2, at=AMONG_LINES, seeds=seeds)
        assert stopped.code == -signal.SIGKILL
        kept, more = stopped.kept, ["--resume"]
        assert kept > of_seeds(seeds, GRADIENTS) and len(kept & LINES) == 3
    dies = {"STAGED_DIES": str(marker)} if "worker" in killed else {}
    ended = runner.run(root, command, 2, *more, seeds=seeds, **dies)
    assert ended.code == 0, ended.err
    assert "pieces of work: on 2 workers (" in ended.err
    assert set(ended.ran) == of_seeds(seeds) - kept
    # A worker takes one line search with it, and what else was in the same call.
    again = Counter(ended.ran) - Counter(set(ended.ran))
    assert marker.exists() == bool(again) == ("worker" in killed) and set(again) <= LINES
    assert ended.left == undisturbed[command, seeds].left
