"""Other layers than the last Dense one through the commands: localised, searched, saved, loaded again, and measured."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from engine.data.image_set import open_image_set, read_images
from engine.models.load import load_model
from engine.models.weight_paths import weight_variables
from engine.patches.arrow import read_patch
from engine.targets.model_runner import ModelRunner
from tests.integration.conftest import MODEL, Command, changed_weights, ok, read_set, weights_of
from tests.integration.test_rows import Given, given, made  # noqa: F401 - fixtures

SHIRT = Path("data/negative/6")
HERE = ("--num-workers", "0", "--verbose", "1")
SMALL = ("--num-particles", "12", "--num-iterations", "6")


def numbers(text: str, word: str) -> tuple[int, int]:
    """`repaired 3 of 23`, as the saved model has it."""
    found = re.search(rf"saved model: {word} (\d+) of (\d+)", text)
    assert found, text
    return int(found[1]), int(found[2])


def right_of(model: Path, images: Path) -> int:
    rows, labels = read_set(images)
    outputs = keras.saving.load_model(model, compile=False).predict(rows, verbose=0)
    return int((outputs.argmax(axis=1) == labels).sum())


@pytest.mark.parametrize(
    ("layers", "fronts", "paths"),
    [
        (("7",), 6, {"dense/kernel"}),
        (("conv2d_2/*",), 6, {"conv2d_2/kernel", "conv2d_2/bias"}),
        (("conv2d_1,dense", "dense_1"), 30, {"conv2d_1/kernel", "dense/kernel", "dense_1/kernel"}),
        (("all",), 30, {f"{layer}/kernel" for layer in ("conv2d", "conv2d_1", "conv2d_2", "dense", "dense_1")}),
    ],
)
def test_localised_searched_and_saved(layers, fronts, paths, workspace: Path, command: Command) -> None:
    named = [word for layer in layers for word in ("--target-layer", layer)]
    done = ok(command("localize", *MODEL, "--target-data-dir", SHIRT, "--fronts", fronts, *named, *HERE))
    localised = read_patch(SHIRT / "weights.arrow")
    assert set(localised.weight) <= paths
    done = ok(command("optimize", *MODEL, "--target-data-dir", SHIRT, *named, *SMALL, "--run-dir", "run", *HERE))
    repaired, kept = numbers(done.out, "repaired"), numbers(done.out, "kept")
    assert repaired[0] > 0
    assert str(SHIRT.absolute() / "weights.arrow") in done.out.split("created files:")[1]
    saved = SHIRT / "repair" / "model.keras"
    assert right_of(saved, SHIRT / "repair.h5") == repaired[0]
    assert right_of(saved, Path("data/positive/repair.h5")) == kept[0]
    after = weights_of(saved)
    changed = changed_weights(weights_of("model.keras"), after)
    patch = read_patch(SHIRT / "weights.arrow")
    assert changed == {name for name, old, new in zip(patch.weight, patch.old, patch.new, strict=True) if old != new}
    for name, place, new in zip(patch.weight, patch.flat_index, patch.new, strict=True):
        assert after[name].ravel()[place] == new
    run = json.loads(Path("run/run.json").read_text(encoding="utf-8"))
    assert set(run["target"]) == paths
    assert run["tiles"][0].keys() == {"particles", "rows", "tiles", "bytes", "route", "memory"}


def test_the_target_of_localize_is_that_of_optimize(workspace: Path, command: Command) -> None:
    """weights.arrow says which weights; --target-layer need not be given again."""
    ok(command("localize", *MODEL, "--target-data-dir", SHIRT, "--target-layer", "conv2d_2", *HERE))
    ok(command("optimize", *MODEL, "--target-data-dir", SHIRT, *SMALL, "--run-dir", "run", *HERE))
    assert set(read_patch(SHIRT / "weights.arrow").weight) == {"conv2d_2/kernel"}
    again = command(
        "optimize", *MODEL, "--target-data-dir", SHIRT, "--target-layer", "dense", *SMALL, "--run-dir", "other", *HERE
    )
    assert again.code == 2
    assert "is about 'conv2d_2/kernel', expected weights of dense" in again.err
    assert not Path("other").exists()


def test_explained_before_it_runs(workspace: Path, command: Command) -> None:
    ok(command("localize", *MODEL, "--target-data-dir", SHIRT, "--target-layer", "conv2d_1", *HERE))
    words = ("optimize", *MODEL, "--target-data-dir", SHIRT, *SMALL, "--explain", *HERE)
    done = ok(command(*words, "--run-dir", "run"))
    assert re.search(r"6: tiles: \d+ per iteration, \d+ particles x \d+ rows, [\d.]+ MiB of values each", done.out)
    assert re.search(r"6: memory: at most [\d.]+ GiB in one process: .* TensorFlow and programs, .* tiles", done.out)
    assert re.search(r"search: .*in this process.*", done.out), done.out
    ok(command(*words, "--tile-bytes", 2 << 20, "--run-dir", "more"))
    large = json.loads(Path("run/run.json").read_text(encoding="utf-8"))["tiles"][0]
    small = json.loads(Path("more/run.json").read_text(encoding="utf-8"))["tiles"][0]
    assert small["bytes"] <= 2 << 20 < large["bytes"]
    assert small["tiles"] > large["tiles"]
    assert small["memory"] < large["memory"]


def test_too_little_memory_is_refused_before_anything_is_written(
    workspace: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--target-layer", "conv2d_1", *SMALL, *HERE)
    ok(command("localize", *MODEL, "--target-data-dir", SHIRT, "--target-layer", "conv2d_1", *HERE))
    ok(command("split", "data/repair.h5", "--chunk-size", 200, "--chunks", 1, "--output-dir", "chunks"))
    monkeypatch.setattr("engine.backend.free_memory", lambda: 100 << 20)
    lacking = (
        r"the search needs [\d.]+ (M|G)iB \(.* of it for tiles\) and 100.0 MiB are free, expected smaller --tile-b"
    )
    repair = (*MODEL, "--target-data-dir", SHIRT)
    batch = (*MODEL, "--chunks", "chunks", "--labels", "6", "--val-data", "data/val.h5", "--output-dir", "batch")
    for tried in (
        ("optimize", *repair, "--run-dir", "run"),
        ("evaluate", *repair, "--num-runs", 1, "--output-dir", "found"),
        ("batch", "--method", "Arachne", *batch),
    ):
        done = command(*tried, *words)
        assert done.code == 2 or (tried[0] == "batch" and done.code)
        assert re.search(lacking, done.out + done.err), (done.out, done.err)
    assert not any(path.exists() for path in (Path("run"), SHIRT / "repair", Path("found")))


PEAK = """
import sys
from cli.main import main
try:
    main(sys.argv[1:])
finally:
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    print(int(status["VmHWM"].split()[0]) * 1024, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("layer", "fronts", "tile_bytes"),
    [("conv2d_1", 2, 8 << 20), pytest.param("all", 30, 8 << 20, marks=pytest.mark.slow)],
)
def test_peak_memory_is_within_what_was_stated(layer, fronts, tile_bytes, workspace: Path, command: Command) -> None:
    """Of particles x rows that are more than ten times what fits at once."""
    localize = ("localize", *MODEL, "--target-data-dir", SHIRT, "--target-layer", layer, "--fronts", fronts, *HERE)
    ok(command(*localize))
    words = ("--num-particles", 40, "--num-iterations", 1, "--tile-bytes", tile_bytes, "--run-dir", "run", *HERE)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *map(str, ("optimize", *MODEL, "--target-data-dir", SHIRT, *words))],
        cwd=workspace,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    peak = int(done.stderr.split()[-1])
    (plan,) = json.loads(Path("run/run.json").read_text(encoding="utf-8"))["tiles"]
    assert plan["tiles"] >= 10
    assert plan["bytes"] <= tile_bytes
    assert peak <= plan["memory"] <= 3 * peak


def test_evaluate_and_batch(workspace: Path, command: Command) -> None:
    """The hidden layer by both, and a batch's rounds, whose later bases have other values of it."""
    words = ("--target-layer", "dense", *SMALL, *HERE)
    done = ok(command("evaluate", *MODEL, "--target-data-dir", SHIRT, "--num-runs", 2, "--output-dir", "found", *words))
    ok(command("split", "data/repair.h5", "--chunk-size", 200, "--chunks", 2, "--output-dir", "chunks"))
    done = command(
        *("batch", "--method", "Arachne", *MODEL, "--chunks", "chunks", "--labels", "6", "--val-data", "data/val.h5"),
        *("--mode", "rounds", "--positive-weights", "0.15x", "--output-dir", "batch", *words),
    )
    assert done.code == 0, done.err
    assert changed_weights(weights_of("model.keras"), weights_of("batch/repair")) <= {"dense/kernel"}


LAYERS = {"text": ("bidirectional", "embedding"), "several": ("gru", "dense/*"), "subclassed": ("embed", "all/*")}


def test_rows_that_are_no_pictures(given: Given, command: Command) -> None:  # noqa: F811
    root = given.root
    ok(command("target", *given.words, "--data-dir", root))
    model = load_model(root / "model.keras", allow_custom_code=bool(given.leave))
    names = list(weight_variables(model.model))
    kind = "subclassed" if given.leave else "several" if any("gru" in name for name in names) else "text"
    layer = next(pattern for pattern in LAYERS[kind])
    chosen = next(name for name in names if name.startswith(layer)).split("/")[0]
    negative = next(path for path in sorted((root / "negative").iterdir()) if path.is_dir())
    words = (*given.words, "--target-data-dir", negative, "--target-layer", chosen, "--verbose", "1")
    done = ok(command("localize", *words, "--fronts", 10))
    done = command("optimize", *words, *SMALL, "--seeds", 2, "--run-dir", root / "run")  # one of the two repairs
    assert done.code == 0, done.err
    repaired, kept = numbers(done.out, "repaired"), numbers(done.out, "kept")
    assert repaired[0] > 0
    saved = load_model(negative / "repair", allow_custom_code=bool(given.leave))
    for folder, (correct, total) in ((negative, repaired), (root / "positive", kept)):
        rows = open_image_set(folder / "repair.h5")
        predicted = ModelRunner(saved.model, None).predict(read_images(rows, 0, rows.rows))
        assert (int((predicted == rows.labels).sum()), rows.rows) == (correct, total)
