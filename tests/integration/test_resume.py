"""Commands that are killed or told to end anywhere go on to the same bits with the same command."""

from __future__ import annotations

import random
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster.records.store import read_facts, read_table
from tests.integration.conftest import Command, contents
from tests.support.batches import doomed
from tests.support.digests import files_of

SEARCH = ["--num-particles", "12", "--num-iterations", "5", "--min-iteration-range", "50", "--num-workers", "0"]
INPUT = ["--model-dir", "model.keras", "--target-data-dir", "data/negative/6"]
OPTIMIZE = [*("optimize", *INPUT, "--seeds", "8", "--val-data", "data/val.h5"), *SEARCH]
EVALUATE = [
    *("evaluate", *INPUT, "--num-runs", "3", "--sweep", "num_particles=8,12", "--test-data", "data/test.h5"),
    *("--num-iterations", "5", "--min-iteration-range", "50", "--num-workers", "0"),
]
CROSSFIT = [
    *("optimize", *INPUT, "--method", "CrossFit", "--seeds", "2", "--val-data", "data/val.h5", *SEARCH),
    *("--recipes", "1:1:epochs=1,4:1:epochs=2", "--folds", "3"),
]
BY_METHOD = [
    *("evaluate", *INPUT, "--method", "Arachne-v2", "--num-runs", "2", "--sweep", "num_particles=8,12"),
    *("--val-data", "data/val.h5", "--num-iterations", "5", "--num-workers", "0"),
]
COMPARE = [
    *("compare", "--model-dir", "model.keras", "--chunks", "data/", "--labels", "6", "--num-workers", "0"),
    *("--val-data", "data/val.h5", "--test-data", "data/test.h5", "--draws", "3", "--rows", "200"),
    *("--methods", "offsets,CrossFit,NeuRecover", "--recipes", "2:1:epochs=1", "--folds", "2"),
]
RANDOM = random.Random(12)

Words = Callable[[Path], list[str]]


def optimize(root: Path) -> list[str]:
    return [*OPTIMIZE, "--output-dir", str(root / "out"), "--run-dir", str(root / "run"), "--resume"]


def steered(root: Path) -> list[str]:
    return [*optimize(root), "--objective", "requirements", "--num-input-pos-sampled", "150"]


def evaluate(root: Path) -> list[str]:
    return [*EVALUATE, "--output-dir", str(root), "--resume"]


def by_method(root: Path) -> list[str]:
    return [*BY_METHOD, "--output-dir", str(root), "--resume"]


def crossfit(root: Path) -> list[str]:
    return [*CROSSFIT, "--output-dir", str(root / "out"), "--run-dir", str(root / "run"), "--resume"]


def compare(root: Path) -> list[str]:
    return [*COMPARE, "--output-dir", str(root), "--resume"]


def found(root: Path) -> dict[str, str]:
    """Digests of patches, tables and models; unfinished files count, lists of what is left do too."""
    left = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    return dict(files_of(root)) | {"files": "\n".join(left)}


@pytest.fixture(scope="module")
def files(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, dict[str, str]]]:
    """By command: how many files an undisturbed one puts in their places, and what it leaves; run when asked for."""

    class Ended(dict[str, tuple[int, dict[str, str]]]):
        def __missing__(self, name: str) -> tuple[int, dict[str, str]]:
            commands = (optimize, steered, evaluate, by_method, crossfit, compare)
            words: Words = {each.__name__: each for each in commands}[name]
            root = tmp_path_factory.mktemp("undisturbed") / "root"
            done = killed(prepared, words(root), root, 0)
            assert done.returncode == 0, done.stderr
            self[name] = int(done.stdout.rpartition("files: ")[2]), found(root)
            return self[name]

    return Ended()


def killed(
    prepared: Path, words: list[str], root: Path, at: int | str, number: signal.Signals = signal.SIGKILL
) -> subprocess.CompletedProcess[str]:
    absolute = [str(prepared / word) if word.startswith(("data/", "model.keras")) else word for word in words]
    return doomed(at, root, absolute, number=number)


def check(
    prepared: Path,
    files: dict[str, tuple[int, dict[str, str]]],
    root: Path,
    words: Words,
    parts: Sequence[float],
    number: signal.Signals,
) -> list[subprocess.CompletedProcess[str]]:
    """Stop the same command at these parts of its files, one after the other, and let it end."""
    count, undisturbed = files[words.__name__]
    ended = [killed(prepared, words(root), root, max(1, round(part * count)), number) for part in parts]
    last = killed(prepared, words(root), root, 0)
    assert last.returncode == 0, last.stderr
    assert found(root) == undisturbed
    return ended


@pytest.mark.parametrize(
    "words",
    [optimize, evaluate, *(pytest.param(words, marks=pytest.mark.slow) for words in (steered, crossfit, compare))],
)
def test_killed_and_resumed(prepared: Path, files: dict[str, Any], tmp_path: Path, words: Words) -> None:
    (ended,) = check(prepared, files, tmp_path / "root", words, [RANDOM.uniform(0.1, 0.6)], signal.SIGKILL)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("words", [optimize, evaluate, by_method, crossfit, compare])
def test_killed_many_times(prepared: Path, files: dict[str, Any], tmp_path: Path, words: Words) -> None:
    """Near its beginning, in its midst, and while it ends: a command that goes on puts fewer files in their places."""
    parts = [0.03, *(RANDOM.uniform(0.05, 0.5) for _ in range(3)), 0.97]
    ended = check(prepared, files, tmp_path / "root", words, parts, signal.SIGKILL)
    assert [done.returncode for done in ended].count(-signal.SIGKILL) >= 3
    ended = check(prepared, files, tmp_path / "end", words, [RANDOM.uniform(0.9, 1)], signal.SIGKILL)
    assert ended[0].returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("words", [optimize, evaluate, crossfit, compare])
def test_told_to_end(
    prepared: Path, files: dict[str, Any], tmp_path: Path, words: Words, number: signal.Signals, code: int
) -> None:
    (ended,) = check(prepared, files, tmp_path / "root", words, [0.4], number)
    assert ended.returncode == code, ended.stderr
    assert ended.stderr.endswith("error: interrupted\n" if code == 130 else "error: terminated\n")


def test_what_had_ended_is_not_searched_again(prepared: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    assert killed(prepared, optimize(root), root, "patches.arrow").returncode == -signal.SIGKILL
    assert read_facts(root / "run")["state"] == "running"
    before = {row["job"]: row["ended"] for row in read_table(root / "run", "jobs").to_pylist()}
    assert killed(prepared, optimize(root), root, 0).returncode == 0
    assert {row["job"]: row["ended"] for row in read_table(root / "run", "jobs").to_pylist()} == before


def test_another_command_does_not_go_on(workspace: Path, command: Command) -> None:
    few = ["--num-particles", "4", "--num-iterations", "2", "--num-workers", "0", "--verbose", "0"]
    ran = ["optimize", *INPUT, *few, "--output-dir", "out", "--run-dir", "run", "--resume"]
    assert command(*ran, "--seeds", "2").code == 0
    before = contents(workspace)
    done = command(*ran, "--seeds", "3")
    assert (done.code, done.out) == (2, "")
    assert "run was begun with seeds [0, 1] and this command has [0, 1, 2], expected the same to resume" in done.err
    assert contents(workspace) == before
    done = command("optimize", *INPUT, *few, "--resume")
    assert (done.code, done.err) == (2, "error: --resume goes on with a run, expected its --run-dir\n")


def test_an_evaluation_that_has_ended(workspace: Path, command: Command) -> None:
    few = ["--num-particles", "4", "--num-iterations", "2", "--num-workers", "0", "--verbose", "1"]
    ran = ["evaluate", *INPUT, *few, "--num-runs", "2", "--test-data", "data/test.h5", "--output-dir", "out"]
    first = command(*ran)
    before = contents(workspace)
    again = command(*ran, "--resume")
    assert (again.code, again.out) == (0, first.out)
    assert contents(workspace) == before
    # Another one is no part of it.
    other = command(*ran, "--resume", "--seed", "5")
    assert other.code == 0 and other.out != first.out
