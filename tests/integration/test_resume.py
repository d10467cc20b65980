"""Commands that are killed or told to end anywhere go on to the same bits with the same command."""

from __future__ import annotations

import functools
import random
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.records.store import read_facts, read_table
from tests.integration.conftest import Command, contents
from tests.support.batches import At, doomed, words_of
from tests.support.digests import files_of

SEARCH = ["--num-particles", "12", "--num-iterations", "5", "--min-iteration-range", "50", "--num-workers", "0"]
INPUT = ["--model-dir", "model.keras", "--target-data-dir", "data/negative/6"]
RUN = ["--output-dir", "ROOT/out", "--run-dir", "ROOT/run"]
OPTIMIZE = [*("optimize", *INPUT, "--seeds", "8", "--val-data", "data/val.h5"), *SEARCH, *RUN]
COMMANDS = {
    "optimize": OPTIMIZE,
    "steered": [*OPTIMIZE, "--objective", "requirements", "--num-input-pos-sampled", "150"],
    "evaluate": [
        *("evaluate", *INPUT, "--num-runs", "3", "--sweep", "num_particles=8,12", "--test-data", "data/test.h5"),
        *("--num-iterations", "5", "--min-iteration-range", "50", "--num-workers", "0", "--output-dir", "ROOT"),
    ],
    "evaluate by method": [
        *("evaluate", *INPUT, "--method", "Arachne-v2", "--num-runs", "2", "--sweep", "num_particles=8,12"),
        *("--val-data", "data/val.h5", "--num-iterations", "5", "--num-workers", "0", "--output-dir", "ROOT"),
    ],
    "CrossFit": [
        *("optimize", *INPUT, "--method", "CrossFit", "--seeds", "2", "--val-data", "data/val.h5", *SEARCH),
        *("--recipes", "1:1:epochs=1,4:1:epochs=2", "--folds", "3", *RUN),
    ],
    "compare": [
        *("compare", "--model-dir", "model.keras", "--chunks", "data/", "--labels", "6", "--num-workers", "0"),
        *("--val-data", "data/val.h5", "--test-data", "data/test.h5", "--draws", "3", "--rows", "200"),
        *("--methods", "offsets,CrossFit,NeuRecover", "--recipes", "2:1:epochs=1", "--folds", "2"),
        *("--output-dir", "ROOT"),
    ],
    "batch": words_of(Path("sets"), Path("ROOT/run"), "rounds", "--num-workers", "0"),
    "part": words_of(Path("sets"), Path("ROOT/run"), "independent", "--num-workers", "0", "--part", "1/2"),
    "part of tunings": [
        *("batch", "--method", "CrossFit", "--model-dir", "model.keras", "--chunks", "sets/chunks", "--labels", "6"),
        *("--recipes", "2:1:epochs=2,4:1:epochs=2", "--folds", "3", "--target-layer", "dense_1", "--part", "1/2"),
        *("--num-workers", "0", "--output-dir", "ROOT/run"),
    ],
}
"""Commands that leave all they make below ROOT."""

RANDOM = random.Random(12)


def found(root: Path) -> dict[str, str]:
    """Digests of patches, tables and models; unfinished files count, lists of what is left do too."""
    left = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    return dict(files_of(root)) | {"files": "\n".join(left)}


Sources = Mapping[str, Path]


@pytest.fixture(scope="module")
def sources(prepared: Path, repairsets: Path) -> Sources:
    """Where the words of a command that begin so are found."""
    return {"data/": prepared / "data", "model.keras": prepared / "model.keras", "sets/": repairsets}


def killed(
    sources: Sources, command: str, root: Path, at: At, number: signal.Signals = signal.SIGKILL
) -> subprocess.CompletedProcess[str]:
    """Run a command, or go on with it, until `at` as of `doomed`."""
    words = [word.replace("ROOT", str(root)) for word in COMMANDS[command]]
    for start, place in sources.items():
        words = [str(place / word.removeprefix(start)) if word.startswith(start) else word for word in words]
    return doomed(at, root, [*words, "--resume"], number=number)


@dataclass(frozen=True, eq=False)
class Undisturbed:
    """What commands leave that nobody stops; each runs when it is asked for."""

    sources: Sources
    folder: Path

    @functools.cache  # noqa: B019
    def of(self, command: str) -> tuple[int, dict[str, str]]:
        """How many files a command puts in their places, and what it leaves."""
        root = self.folder / command
        done = killed(self.sources, command, root, 0)
        assert done.returncode == 0, done.stderr
        return int(done.stdout.rpartition("files: ")[2]), found(root)

    def check(
        self, command: str, root: Path, parts: Sequence[float], number: signal.Signals = signal.SIGKILL
    ) -> list[subprocess.CompletedProcess[str]]:
        """Stop the same command at these parts of its files, one after the other, and let it end."""
        count, left = self.of(command)
        ended = [killed(self.sources, command, root, max(1, round(part * count)), number) for part in parts]
        last = killed(self.sources, command, root, 0)
        assert last.returncode == 0, last.stderr
        assert found(root) == left
        return ended


@pytest.fixture(scope="module")
def undisturbed(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return Undisturbed(sources, tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize(
    "name",
    [
        "optimize",
        "evaluate",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("steered", "part", "part of tunings")  # the others are killed many times below
        ),
    ],
)
def test_killed_and_resumed(undisturbed: Undisturbed, tmp_path: Path, name: str) -> None:
    (ended,) = undisturbed.check(name, tmp_path / "root", [RANDOM.uniform(0.1, 0.6)])
    assert ended.returncode == -signal.SIGKILL, ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["optimize", "evaluate", "evaluate by method", "CrossFit", "compare", "batch"])
def test_killed_many_times(undisturbed: Undisturbed, tmp_path: Path, name: str) -> None:
    """Near its beginning, in its midst, and while it ends: a command that goes on puts fewer files in their places."""
    parts = [0.03, *(RANDOM.uniform(0.05, 0.5) for _ in range(3)), 0.97]
    ended = undisturbed.check(name, tmp_path / "root", parts)
    assert [done.returncode for done in ended].count(-signal.SIGKILL) >= 3
    ended = undisturbed.check(name, tmp_path / "end", [RANDOM.uniform(0.9, 1)])
    assert ended[0].returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("name", ["optimize", "evaluate", "CrossFit", "compare", "batch"])
def test_told_to_end(undisturbed: Undisturbed, tmp_path: Path, name: str, number: signal.Signals, code: int) -> None:
    (ended,) = undisturbed.check(name, tmp_path / "root", [0.4], number)
    assert ended.returncode == code, ended.stderr
    assert ended.stderr.endswith("error: interrupted\n" if code == 130 else "error: terminated\n")
    assert "***" not in ended.stderr


@pytest.mark.parametrize("name", ["optimize", pytest.param("batch", marks=pytest.mark.slow)])
def test_what_had_ended_is_not_searched_again(sources: Sources, tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    assert killed(sources, name, root, "patches.arrow").returncode == -signal.SIGKILL
    assert read_facts(root / "run")["state"] == "running"
    before = {row["job"]: row["ended"] for row in read_table(root / "run", "jobs").to_pylist()}
    assert killed(sources, name, root, 0).returncode == 0
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
