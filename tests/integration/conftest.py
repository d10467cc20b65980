"""Commands run in this process, in a folder of their own that holds the shipped model and small sets of its images."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cli.main import run
from cluster.batch.run import run_recorded
from engine.models.load import load_model
from engine.models.weight_paths import weight_variables
from tests.support.batches import here, small_batch, write_data
from tests.support.pages import Element, page_of
from tests.support.plugins import Site
from tests.support.run_samples import SAMPLES, write_run

SCRIPT = Path(sys.executable).with_name("repair-dist")
SHIPPED = Path(__file__).parents[2] / "cli" / "quickstart_data"
LEGACY = Path(__file__).parents[1] / "data" / "legacy"
SOURCES = {
    "model.keras": SHIPPED / "model.keras",
    "sequential.h5": LEGACY / "sequential.h5",
    "sequential-savedmodel": LEGACY / "sequential-savedmodel",
}
"""A model of each format."""

ROWS = {"repair": 400, "val": 120, "test": 120}

CROSSFIT_GOALS = """
confidence = 0.9
[[require]]
max_drop = 0.02
[[require]]
label = "*"
max_drop = 0.05
[[require]]
label = "Shirt"
min_gain = 0.02
[[require]]
true = "Shirt"
predicted = "T-shirt/top"
max_rate = 0.5
"""


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


def ok(done: Done) -> Done:
    assert done.code == 0, done.err
    return done


Command = Callable[..., Done]
Refused = Callable[..., str]

MODEL = ["--model-dir", "model.keras"]
HERE = ["--num-workers", "0", "--verbose", "0"]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model.keras` and `data/`: 400 repair rows with targets, weights for label 6, and held-out rows."""
    root = tmp_path_factory.mktemp("prepared")
    shutil.copy(SHIPPED / "model.keras", root)
    model, data = str(root / "model.keras"), root / "data"
    prepare = ["prepare", "fashion-mnist", "--input-dir", str(SHIPPED), "--output-dir", str(root / "all")]
    commands = [[*prepare, "--data-ratio", "0,0.1,0.5,0.4"]]
    for name, rows in ROWS.items():
        split = ["split", str(root / "all" / f"{name}.h5"), "--chunk-size", str(rows), "--chunks", "1"]
        commands.append([*split, "--output-dir", str(root / name)])
    for words in commands:
        assert run(words) == 0
    data.mkdir()
    for name in ROWS:
        (root / name / "0" / "repair.h5").rename(data / f"{name}.h5")
        shutil.rmtree(root / name)
    shutil.rmtree(root / "all")
    here = ["--num-workers", "0", "--verbose", "0"]
    assert run(["target", "--model-dir", model, "--data-dir", str(data), *here]) == 0
    assert run(["localize", "--model-dir", model, "--target-data-dir", str(data / "negative" / "6"), *here]) == 0
    return root


@pytest.fixture
def workspace(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`prepared` under a second name, as the current directory.

    Its files are hard links: a test may replace or remove them but never write into one.
    """
    root = tmp_path / "work"
    shutil.copytree(prepared, root, copy_function=os.link)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:

    def call(*words: object) -> Done:
        capsys.readouterr()
        code = run([str(word) for word in words])
        return Done(code, *capsys.readouterr())

    return call


def contents(root: Path) -> dict[str, str]:
    """Every file, folder and link below a folder, with what changes when it is written or replaced."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            what = f"link to {path.readlink()}"
        elif path.is_dir():
            what = "folder"
        else:
            status = path.stat()
            what = f"{status.st_ino} {status.st_size} {status.st_mtime_ns}"
        found[str(path.relative_to(root))] = what
    return found


def read_set(path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    """Images and class numbers of an image set, without the code under test."""
    with h5py.File(path, "r") as file:
        return file["images"][...], file["labels"][...].argmax(axis=1)


def rewrite_set(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the arrays of an image set, whose attributes go; its other names keep what it was."""
    with h5py.File(path, "r") as file:
        arrays = {name: file[name][...] for name in ("images", "labels")}
    change(arrays)
    path.unlink()
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


def weights_of(model: Path | str) -> dict[str, np.ndarray]:
    """The weights of a model by their paths, read again from its file."""
    return {name: np.array(variable) for name, variable in weight_variables(load_model(Path(model)).model).items()}


def changed_weights(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    return {name for name, array in before.items() if not np.array_equal(array, after[name])}


def stop(words: Sequence[object], number: signal.Signals, when: Callable[[], bool]) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, and send it a signal once something has come true."""
    command = subprocess.Popen([SCRIPT, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 120
        while not when() and command.poll() is None and time.monotonic() < end:
            time.sleep(0.002)
        command.send_signal(number)
        out, err = command.communicate(timeout=60)
    finally:
        command.kill()
    return subprocess.CompletedProcess(words, command.returncode, out, err)


@pytest.fixture
def refused(command: Command, tmp_path: Path) -> Refused:
    """Runs a command that must exit with 2 and one sentence, and leave everything as it was; returns the sentence."""

    def call(*words: object, says: tuple[str, ...]) -> str:
        before = contents(tmp_path)
        done = command(*words)
        assert done.code == 2, done.err
        assert done.out == ""
        assert done.err.startswith("error: ")
        assert done.err.count("\n") == 1, done.err
        assert "expected" in done.err or "expects" in done.err
        for text in says:
            assert text in done.err
        assert contents(tmp_path) == before
        return done.err

    return call


@pytest.fixture(scope="session")
def crossfit_run(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished CrossFit repair of label 6: the run, and beside it what `optimize` printed, and the page."""
    root = tmp_path_factory.mktemp("crossfit")
    data = prepared / "data"
    (root / "goals.toml").write_text(CROSSFIT_GOALS, encoding="utf-8")
    words = ["optimize", "--method", "CrossFit", "--model-dir", prepared / "model.keras", "--verbose", "1"]
    words += ["--target-data-dir", data / "negative" / "6", "--output-dir", root / "out", "--run-dir", root / "run"]
    words += ["--test-data", data / "test.h5", "--requirements", root / "goals.toml", "--num-workers", "0"]
    words += ["--recipes", "2:1:epochs=2,4:1:epochs=2", "--folds", "3", "--num-iterations", "5", "--seed", "1"]
    words += ["--promise-rows", "60"]
    out = io.StringIO()
    with redirect_stdout(out):
        assert run([str(word) for word in words]) in (0, 3)
    (root / "out.txt").write_text(out.getvalue(), encoding="utf-8")
    page_of(root / "run")
    return root


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The run directory of every sample."""
    return {name: write_run(tmp_path_factory.mktemp(name), name) for name in SAMPLES}


@pytest.fixture(scope="session")
def trees(samples: dict[str, Path]) -> dict[str, Element]:
    """The page of every sample, which lies beside its directory."""
    return {name: page_of(directory) for name, directory in samples.items()}


@pytest.fixture(scope="session")
def repairsets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model.keras`, `chunks/`, `val.h5` and `test.h5`, see `tests.support.batches.write_data`."""
    root = write_data(tmp_path_factory.mktemp("repairsets"))
    shutil.copy(SHIPPED / "model.keras", root)
    return root


@pytest.fixture(scope="session")
def undisturbed(repairsets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    with here() as compute:
        run_recorded(small_batch(repairsets, directory), compute)
    return directory


@pytest.fixture
def batchspace(repairsets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`repairsets` under a second name, as the current directory; hard links, as in `workspace`."""
    root = tmp_path / "work"
    shutil.copytree(repairsets, root, copy_function=os.link)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, source in SOURCES.items():
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


LUCK = """
import numpy as np
from engine.core.errors import InputError
from engine.methods.base import Method, Offer, Repair

def repair(job):
    if job.seed % 2:
        raise InputError(f"seed {job.seed} is odd, expected luck")
    path = job.chain.offsets
    more = job.chain.values[path] + 3 * np.eye(10, dtype=np.float32)[6]
    if job.seed == 2:  # numbers, whose sums overflow
        path = job.chain.layers[-1].kernel
        more = 3e38 * np.sign(job.chain.values[path])
    return Repair([Offer("too much of it", {path: more}, 1.0)], 0.5, notes=("lucky",))

METHOD = Method("Luck of mine", repair, "a bias", "none", "a test")
"""


@pytest.fixture
def luck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A method of another package that runs with even seeds alone."""
    Site(tmp_path / "site", monkeypatch).install(
        "some-luck", {"Luck of mine": "some_luck:METHOD"}, LUCK, group="repair_dist.methods"
    )
    return "luck of mine"
