"""Whole commands as the tutorial spells them: what they print, write and record, and how they stop."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import keras
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from cli import main
from cli.main import COMMANDS, run
from cluster.records.schema import KEYS, OF_METHODS, SCHEMAS
from cluster.records.store import RunRecords, read_facts, read_table
from engine.models.load import load_model
from tests.engine.patches.test_save import content
from tests.integration.conftest import SCRIPT, Command, contents, ok, read_set, weights_of

LEGACY = Path(__file__).parents[1] / "data" / "legacy"
HERE = ["--num-workers", "0", "--verbose", "1"]
SMALL = ["--num_iterations=8", "--num_particles=12"]


def right(model: Path, path: Path) -> tuple[np.ndarray, np.ndarray]:
    images, labels = read_set(path)
    return load_model(model).model.predict(images, verbose=0).argmax(axis=1) == labels, labels


def kernel(model: Path, number: int) -> np.ndarray:
    return np.array(load_model(model).model.layers[number].kernel)


def rows(weights: Path) -> list[list[str]]:
    return [line.split(",") for line in weights.read_text().splitlines()]


def succeed(command: Command, *words: object) -> str:
    done = command(*words, *HERE)
    assert done.code == 0 and "warning: " not in done.err, done.err
    return done.out


# The tutorial's commands.


def test_the_tutorial(workspace: Path, command: Command, prepared: Path) -> None:
    """Every flag in the tutorial's spelling, from the first accuracy to the chart of the repaired model."""
    shutil.rmtree("data/negative")
    shutil.rmtree("data/positive")
    hits, labels = right(Path("model.keras"), Path("data/test.h5"))
    out = succeed(command, "test", "--model_dir=model.keras", "--data_dir=data")
    accuracy, loss = out.splitlines()
    assert accuracy == f"accuracy: {100 * hits.mean():.2f}%"
    images, _ = read_set(Path("data/test.h5"))
    there = keras.saving.load_model("model.keras").evaluate(images, np.eye(10)[labels], verbose=0)[0]
    assert loss.startswith("loss: ") and float(loss[6:]) == pytest.approx(there, abs=1e-4)

    succeed(command, "target", "--model_dir=model.keras", "--target_data=data")
    negative = "--target_data_dir=data/negative/6"
    out = succeed(command, "localize", "--method=Arachne", "--model_dir=model.keras", negative)
    assert out.endswith("created files:\ndata/negative/6/weights.csv\ndata/negative/6/pareto_front.png\n")
    with Image.open(Path("data/negative/6/pareto_front.png")) as picture:
        assert picture.size == (640, 480)
    # `prepared` was made by the dashed spellings.
    for name in ("weights.csv", "repair.h5"):
        same = prepared / "data" / "negative" / "6" / name
        assert Path("data/negative/6", name).read_bytes() == same.read_bytes()

    searching = ["--method=Arachne", "--model_dir=model.keras", negative, "--positive_inputs_dir=data/positive"]
    out = succeed(command, "optimize", *searching, "--num_iterations=3", "--num_particles=3")
    repaired = Path("data/negative/6/repair")
    assert f"created files:\n{repaired.absolute()}/model.keras\n" in out

    charting = [f"--model_dir={repaired}", "--input_dir=data", "--output_dir=charts", "--target_data=test.h5"]
    out = succeed(command, "utils", "draw_radar_chart", *charting)
    assert out == "created files:\ncharts/results.json\ncharts/radar.png\n"
    with Image.open(Path("charts/radar.png")) as picture:
        assert picture.size == (1920, 1440)


def test_booleans_with_and_without_a_value(workspace: Path, command: Command) -> None:
    words = ["test", "--model-dir", "model.keras", "--data-dir", "data"]
    assert "95 % interval" not in succeed(command, *words, "--per-label=False")
    shown = succeed(command, *words, "--per_label=True")
    assert succeed(command, *words, "--per-label") == shown
    assert re.search(r"^6 Shirt +\d+ +\d+ +\d+\.\d\d +\d+\.\d - \d+\.\d$", shown, re.MULTILINE)
    split = ["split", "data/repair.h5", "--chunks=1"]
    ok(command(*split))
    assert command(*split, "--overwrite=False").code == 2
    ok(command(*split, "--overwrite=True"))


def test_a_command_line(workspace: Path) -> None:
    """The installed script in a shell of its own: the result on standard output, the work on standard error."""
    words = [SCRIPT, "test", "--model_dir=model.keras", "--data_dir=data", "--target_data=val"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    hits, _ = right(Path("model.keras"), Path("data/val.h5"))
    assert done.returncode == 0
    assert re.fullmatch(rf"accuracy: {100 * hits.mean():.2f}%\nloss: \d+\.\d{{4}}\n", done.stdout)
    assert "predict with losses 120 rows: in this process" in done.stderr


# Files that go round.


def test_weights_of_localize_and_optimize(workspace: Path, command: Command) -> None:
    weights = Path("data/negative/6/weights.csv")
    localized = weights.read_bytes()
    line = rb"(8,\d+,\d,-?\d+(\.\d+)?(e-\d+)?\r\n)+"
    assert re.fullmatch(line, localized)
    before = kernel(Path("model.keras"), 8)
    for _, i, j, value in rows(weights):
        assert value == str(before[int(i), int(j)])
    words = ["optimize", "--model-dir", "model.keras", "--target-data-dir", "data/negative/6", *SMALL]
    succeed(command, *words, "--output-dir", "out", "--run-dir", "first")
    assert weights.read_bytes() == localized
    repaired = Path("out/weights.csv").read_bytes()
    assert re.fullmatch(rb"(8,\d+,\d,(-?\d+(\.\d+)?(e-\d+)?,?){2}\r\n)+", repaired)
    assert [cells[:4] for cells in rows(Path("out/weights.csv"))] == rows(weights)
    after = kernel(Path("out/repair"), 8)
    expected = before.copy()
    for _, i, j, _, new in rows(Path("out/weights.csv")):
        expected[int(i), int(j)] = np.float32(new)
    np.testing.assert_array_equal(after, expected)
    assert (after != before).any()

    # By hand, with a header and other line ends; the values in the file do not count.
    weights.unlink()
    mine = "# layer,i,j,value\n\n" + "".join(f"{','.join(cells[:3])},77\n" for cells in rows(Path("out/weights.csv")))
    weights.write_text(mine)
    succeed(command, *words, "--output-dir", "again", "--run-dir", "second")
    assert Path("again/weights.csv").read_bytes() == repaired
    # Five columns as input, and in place.
    weights.unlink()
    weights.write_bytes(repaired)
    succeed(command, *words, "--run-dir", "third")
    assert weights.read_bytes() == repaired
    assert Path("data/negative/6/repair/model.keras").read_bytes() == Path("out/repair/model.keras").read_bytes()


def test_another_optimiser(workspace: Path, command: Command) -> None:
    """Records say which; another one does not go on with the run; the result is not worse than the model."""
    words = ["optimize", "--model-dir", "model.keras", "--target-data-dir", "data/negative/6", "--run-dir", "run"]
    words += ["--num-particles", "6", "--num-iterations", "4", "--de-factor", "0.6", "--bound", "2", "--explain", *HERE]
    done = ok(command(*words, "--optimiser", "DE", "--output-dir", "out"))
    assert "search: DE, 6 candidates in each of at most 4 iterations" in done.out
    facts = json.loads(Path("run/run.json").read_text())
    settings = {"num_particles": 6, "optimiser": "DE", "bound": 2.0, "factor": 0.6, "crossover": 0.7}
    assert facts["arguments"]["settings"]["swarm"] == facts["identity"]["settings"]["swarm"] == settings
    best = read_table(Path("run"), "swarm").column("best").to_pylist()
    assert len(best) == 4 and best == sorted(best)
    other = command(*words, "--optimiser", "random", "--output-dir", "out", "--resume")
    assert other.code == 2 and "de_factor is of DE and the optimiser is random" in other.err


@pytest.fixture
def legacy(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A legacy model in the current directory, with rows of which it gets a third wrong, half of those of label 6."""
    monkeypatch.chdir(tmp_path)
    source = LEGACY / request.param
    model = tmp_path / source.name
    (shutil.copytree if source.is_dir() else shutil.copyfile)(source, model)
    random = np.random.default_rng(3)
    loaded = load_model(model)
    images = random.random((150, *loaded.input_shape), dtype=np.float32)
    labels = loaded.model.predict(images, verbose=0).argmax(axis=1)
    labels[:25], labels[25:50] = 6, random.integers(0, 10, 25)
    with h5py.File("repair.h5", "w") as file:
        file["images"] = images
        file["labels"] = np.eye(10, dtype=np.uint8)[labels]
    return model


@pytest.mark.parametrize(
    "legacy",
    ["sequential.h5", "functional.h5", "sequential-savedmodel", "functional-savedmodel"],
    indirect=True,
)
def test_every_format_end_to_end(legacy: Path, command: Command) -> None:
    before = contents(legacy.parent)
    succeed(command, "target", "--model-dir", legacy, "--data-dir", ".")
    succeed(command, "localize", "--model-dir", legacy, "--target-data-dir", "negative/6", "--num-grad", "30")
    words = ["--model-dir", legacy, "--target-data-dir", "negative/6", "--output-dir", "out", *SMALL]
    words.append("--positive-weight=0")
    out = succeed(command, "optimize", *words)
    assert {path: what for path, what in contents(legacy.parent).items() if path in before} == before
    check_only_the_patch(legacy, Path("out"))
    hits, _ = right(Path("out/repair"), Path("negative/6/repair.h5"))
    assert f"saved model: repaired {hits.sum()} of {len(hits)} negative inputs" in out
    assert hits.any()


def check_only_the_patch(source: Path, output: Path) -> None:
    """The repaired container differs from its source in the weights of weights.csv and in nothing else."""
    repaired = output / "repair"
    if source.is_file():
        (repaired,) = repaired.glob("model.*")
        assert repaired.suffix == source.suffix
    old, new = content(source), content(repaired)
    assert list(old) == list(new)
    (name,) = (name for name in old if old[name] != new[name])
    dtype, shape, data = old[name]
    expected, changed = np.frombuffer(data, dtype).reshape(shape).copy(), 0
    number = int(rows(output / "weights.csv")[0][0])
    assert expected.shape == kernel(source, number).shape
    for layer, i, j, value, better in rows(output / "weights.csv"):
        assert int(layer) == number
        assert expected[int(i), int(j)] == np.float32(value)
        expected[int(i), int(j)] = np.float32(better)
        changed += value != better
    assert changed
    assert new[name] == (dtype, shape, expected.tobytes())
    assert any(np.array_equal(array, expected) for array in weights_of(repaired).values())


def test_repair_of_a_repaired_model(workspace: Path, command: Command) -> None:
    """The tutorial's chain; `target` on the same rows keeps the repaired model that lies inside negative/."""
    negatives = ["--target-data-dir", "data/negative/6"]
    succeed(command, "optimize", "--model-dir", "model.keras", *negatives, *SMALL, "--seed", "1")
    repaired = Path("data/negative/6/repair")
    first = (repaired / "model.keras").read_bytes()
    hits, labels = right(repaired, Path("data/repair.h5"))

    out = succeed(command, "target", "--model-dir", repaired, "--data-dir", "data")
    assert out.startswith(f"positive: {hits.sum()} of 400 rows, negative: {(~hits).sum()}\n")
    kept = sorted(path.name for path in Path("data/negative/6").iterdir() if not path.name.isdecimal())
    assert kept == ["labels.json", "repair", "repair.h5"]
    assert (repaired / "model.keras").read_bytes() == first
    assert len(read_set(Path("data/negative/6/repair.h5"))[1]) == (~hits & (labels == 6)).sum()

    succeed(command, "localize", "--model-dir", repaired, *negatives)
    weighed = ["--positive-weight", "2", "--output-dir", "second"]
    succeed(command, "optimize", "--model-dir", repaired, *negatives, *SMALL, *weighed)
    check_only_the_patch(repaired / "model.keras", Path("second"))
    start = right(repaired, Path("data/negative/6/repair.h5"))[0].sum()
    end = right(Path("second/repair"), Path("data/negative/6/repair.h5"))[0].sum()
    assert start == 0
    assert end > 0


# What is reported, and what is recorded.


@pytest.fixture(scope="module")
def finished(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A run over two labels and two seeds with held-out rows, and what it printed."""
    root = tmp_path_factory.mktemp("finished")
    words = ["--model-dir", prepared / "model.keras", "--seeds", "2", "--num-particles", "20", "--num-iterations", "15"]
    data = prepared / "data"
    with pytest.MonkeyPatch.context() as patch, io.StringIO() as printed:
        patch.chdir(root)
        patch.setattr(sys, "stdout", printed)
        other = root / "negative" / "2"
        shutil.copytree(data / "negative" / "2", other)
        localize = ["localize", "--model-dir", prepared / "model.keras", "--target-data-dir", other, *HERE]
        assert run([str(word) for word in localize]) == 0
        words += ["--target-data-dir", data / "negative" / "6", "--target-data-dir", other]
        words += ["--positive-inputs-dir", data / "positive", "--output-dir", "out", "--run-dir", "run"]
        words += ["--val-data", data / "val.h5", "--test-data", data / "test.h5"]
        assert run([str(word) for word in ["optimize", *words, *HERE]]) == 0
        yield root, printed.getvalue()


def test_reports_are_measured_on_the_saved_model(finished: tuple[Path, str], prepared: Path) -> None:
    root, printed = finished
    data = prepared / "data"
    jobs = read_table(root / "run", "jobs").to_pylist()
    labels = read_table(root / "run", "labels").to_pylist()
    chosen = {job["label"]: job for job in jobs if job["chosen"]}
    assert sorted(chosen) == [2, 6]
    checked = 0
    for number, label, negative in ((0, 6, data / "negative" / "6"), (1, 2, root / "negative" / "2")):
        job, saved = chosen[label], root / "out" / str(number) / "repair"
        sets = {
            "negative": negative / "repair.h5",
            "positive": data / "positive" / "repair.h5",
            "validation": data / "val.h5",
            "test": data / "test.h5",
        }
        for split, file in sets.items():
            before, truth = right(prepared / "model.keras", file)
            after, _ = right(saved, file)
            if split in ("negative", "positive"):
                believed = job["patched"] if split == "negative" else job["intact"]
                assert believed == after.sum()
                word = "repaired" if split == "negative" else "kept"
                assert f"saved model: {word} {after.sum()} of {len(after)} {split} inputs" in printed
            else:
                change = 100 * (after.mean() - before.mean())
                line = rf"all +{len(after)} +{100 * before.mean():.2f} +{100 * after.mean():.2f} +\{change:+.2f} "
                line += rf"+{(~before & after).sum()} +{(before & ~after).sum()}$"
                assert re.search(line, printed, re.MULTILINE)
            for stage, hits in (("base", before), ("repaired", after)):
                for row in labels:
                    if (row["job"], row["split"], row["stage"]) != (job["job"], split, stage):
                        continue
                    mine = truth == row["label"]
                    assert (row["total"], row["correct"]) == (mine.sum(), hits[mine].sum())
                    assert row["accuracy"] == row["correct"] / row["total"]
                    fixed, broken = (~before & hits)[mine].sum(), (before & ~hits)[mine].sum()
                    assert (row["repaired"], row["broken"]) == (fixed, broken)
                    checked += 1
    assert checked == len(labels) == 2 * 2 * (1 + 3 * 10)


def test_records_of_a_finished_run(finished: tuple[Path, str], prepared: Path) -> None:
    root, _ = finished
    run = root / "run"
    schemas = {name: schema for name, schema in SCHEMAS.items() if name not in OF_METHODS}
    assert sorted(path.name for path in run.iterdir()) == sorted([*(f"{name}.arrow" for name in schemas), "run.json"])
    tables = {}
    for name, schema in schemas.items():
        tables[name] = pa.ipc.open_file(pa.memory_map(str(run / f"{name}.arrow"))).read_all()
        assert tables[name].schema.equals(schema, check_metadata=True)
        assert all(field.metadata[b"description"] for field in tables[name].schema)
        keys = [tuple(row[key] for key in KEYS[name]) for row in tables[name].select(KEYS[name]).to_pylist()]
        assert keys == sorted(set(keys))
    assert tables["swarm"].schema.field("seconds").metadata[b"unit"] == b"s"

    jobs = {job["job"]: job for job in tables["jobs"].to_pylist()}
    assert len(jobs) == 4
    assert sorted((job["label"], job["seed"]) for job in jobs.values()) == [(2, 0), (2, 1), (6, 0), (6, 1)]
    for name, job in jobs.items():
        swarm = [row for row in tables["swarm"].to_pylist() if row["job"] == name]
        assert [row["iteration"] for row in swarm] == list(range(1, job["iterations"] + 1))
        best = [row["best"] for row in swarm]
        assert best == sorted(best)
        assert best[0] >= job["start_fitness"]
        assert best[-1] == job["fitness"]
        assert (swarm[-1]["patched"], swarm[-1]["intact"]) == (job["patched"], job["intact"])
        assert job["stop"] in ("solved", "no gain", "iterations")
        assert job["where"] == "process"
        assert job["redispatched"] == 0
        if job["chosen"]:
            output = root / "out" / ("0" if job["label"] == 6 else "1")
            written = [(int(i), int(j), np.float32(a), np.float32(b)) for _, i, j, a, b in rows(output / "weights.csv")]
            patch = [row for row in tables["patches"].to_pylist() if row["job"] == name]
            assert written == [(*row["index"], row["old"], row["new"]) for row in patch]

    facts = json.loads((run / "run.json").read_text())
    assert facts["state"] == "done"
    assert facts["model"] == {
        "path": str(prepared / "model.keras"),
        "fingerprint": load_model(prepared / "model.keras").fingerprint,
    }
    assert facts["arguments"]["seeds"] == [0, 1]
    assert facts["arguments"]["settings"]["swarm"]["num_particles"] == 20
    assert sorted(facts["data"]) == sorted({job["data"] for job in jobs.values()})
    assert set(facts["versions"]) >= {"python", "repair-dist", "tensorflow", "keras", "ray", "numpy"}
    assert facts["hardware"]
    assert any(line.startswith("search: in this process") for line in facts["placement"])


# Help, and stopping.

LISTING = """
import sys
from cli.main import run
for words in {words!r}:
    assert run(words) == 0, words
    print("====")
    assert words != ["--help"] or "numpy" not in sys.modules
heavy = [name for name in ("tensorflow", "keras", "ray", "h5py", "pyarrow", "matplotlib") if name in sys.modules]
assert not heavy, heavy
"""


def test_help_is_quick_and_shows_an_example() -> None:
    """In a fresh interpreter, as this one has imported everything."""
    datasets = ("fashion-mnist", "bdd-objects", "bdd", "gtsrb", "cifar-10", "image-folder")
    commands = (
        [[name] for name in COMMANDS] + [["prepare", name] for name in datasets] + [["utils", "draw_radar_chart"]]
    )
    words = [["--help"], ["--version"], *([*command, "--help"] for command in commands)]
    done = subprocess.run(
        [sys.executable, "-c", LISTING.format(words=words)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    top, _, *pages = done.stdout.split("====\n")[:-1]
    assert all(re.search(rf"^  {name} +\w", top, re.MULTILINE) for name in COMMANDS)
    for command, page in zip(commands, pages, strict=True):
        assert page.startswith(f"Usage: repair-dist {' '.join(command)}")
        assert f"Example: repair-dist {' '.join(command)}" in re.sub(r"\s+", " ", page), page


def processes_with(mark: str) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def stopped(words: list[object], cwd: Path, number: signal.Signals, ready: Callable[[str], bool]) -> tuple[str, str]:
    """Run `optimize` until it is `ready`, as the mark of its processes tells; stop it, and see that none is left.

    Returns what it printed, and its last sentence.
    """
    mark = f"mark-{uuid.uuid4().hex}"
    command = subprocess.Popen(
        [SCRIPT, "optimize", "--model-dir", "model.keras", "--target-data-dir", "data/negative/6", *map(str, words)],
        cwd=cwd,
        env={**os.environ, "REPAIR_DIST_MARK": mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not ready(mark):
            assert command.poll() is None, command.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        if number == signal.SIGINT:  # as a terminal does
            os.killpg(command.pid, number)
        else:
            command.send_signal(number)
        out, err = command.communicate(timeout=60)
    finally:
        if command.poll() is None:
            os.killpg(command.pid, signal.SIGKILL)
    assert command.returncode == (130 if number == signal.SIGINT else 143), err
    assert "Traceback" not in err and "***" not in err
    deadline = time.monotonic() + 10
    while left := processes_with(mark):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    return out, err.rstrip().rpartition("\n")[2]


SIGNALS = [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")]


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found through /proc")
@pytest.mark.parametrize(("number", "word"), SIGNALS)
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_interrupt(workers: int, number: signal.Signals, word: str, workspace: Path) -> None:
    """Ctrl-C or SIGTERM in the middle of a search: its exit code, readable records, and no process left."""
    words: list[object] = ["--seeds", 2, "--num-iterations", 10**7, "--min-iteration-range", 10**7, "--run-dir", "run"]
    before = contents(workspace)

    def ready(mark: str) -> bool:
        begun = bool(list((workspace / "run" / "swarm").glob("*.arrow")))
        assert not begun or len(processes_with(mark)) > workers
        return begun

    out, last = stopped([*words, "--num-workers", workers], workspace, number, ready)
    assert (out, last) == ("", f"error: {word}")
    assert json.loads((workspace / "run" / "run.json").read_text())["state"] == "interrupted"
    assert len(read_table(workspace / "run", "swarm")) > 0
    after = {path: what for path, what in contents(workspace).items() if path.partition("/")[0] != "run"}
    assert after == before
    assert not list((workspace / "run").glob("**/.*"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found through /proc")
@pytest.mark.parametrize(
    ("processes", "number", "word"), [*((count, *SIGNALS[0]) for count in (1, 3, 6)), (6, *SIGNALS[1])]
)
def test_interrupt_while_workers_start(
    processes: int, number: signal.Signals, word: str, workspace: Path, tmp_path: Path
) -> None:
    """Ray starts while a thread imports: a signal then ends both, wherever they are."""

    def ready(mark: str) -> bool:
        if len(processes_with(mark)) < processes:
            return False
        time.sleep(0.5)  # past the first lines of Python
        return True

    words: list[object] = ["--num-workers", 2, "--run-dir", tmp_path / "run", "--output-dir", tmp_path / "out"]
    assert stopped(words, workspace, number, ready) == ("", f"error: {word}")


def test_what_a_library_makes_of_ctrl_c_is_told_and_recorded_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*_: object, **__: object) -> None:
        with RunRecords.create(tmp_path / "run", {}, overwrite=False).telling_end({}):
            raise SystemError("<built-in method __array__> returned a result with an exception set") from interrupt

    interrupt = KeyboardInterrupt()
    monkeypatch.setattr(main.repair_dist, "main", command)
    assert run([]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"
    assert read_facts(tmp_path / "run")["state"] == "interrupted"


def test_a_command_line_of_arachne_needs_no_method(workspace: Path, command: Command) -> None:
    """Where `localize` left weights, where there are several folders, and where options of Arachne say so."""
    few = ["--model-dir", "model.keras", "--num-particles", "4", "--num-iterations", "2", "--num-workers", "0"]
    six = ["--target-data-dir", "data/negative/6"]
    done = command("optimize", *few, *six, "--output-dir", "out", "--run-dir", "one")
    assert done.code == 0 and "method Arachne (--method CrossFit is the other)\n" in done.err
    assert "method" not in read_facts(Path("one"))
    (workspace / "data/negative/6/weights.csv").unlink()
    for more in (["--positive-weight", "5"], ["--target-data-dir", "data/negative/4"]):
        done = command("optimize", *few, *six, *more, "--output-dir", "out", "--run-dir", "two")
        assert done.code == 2 and "expected the weights.csv that `localize` writes" in done.err
    done = ok(command("optimize", *few, *six, "--recipes", "1:1:epochs=1", "--folds", "2", "--run-dir", "three"))
    assert "method CrossFit, as `localize` left no weights.csv" in done.err
    assert read_facts(Path("three"))["method"] == "CrossFit"
