"""Pictures whose values lie far from those that a model knows: one warning for each set, and the command goes on."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from engine.models.load import load_model
from tests.integration.conftest import Command
from tests.integration.test_bad_input import HERE, OPTIMIZE, TARGET, TEST

HELD_OUT = ["--val-data", "data/val.h5", "--test-data", "data/test.h5"]


def scale(path: Path, factor: float) -> str:
    """Multiply the pixels of a set; returns its path."""
    with h5py.File(path, "r") as file:
        arrays = {name: file[name][...] for name in ("images", "labels")}
    path.unlink()  # its other names keep what it was
    with h5py.File(path, "w") as file:
        file["images"] = arrays["images"] * np.float32(factor)
        file["labels"] = arrays["labels"]
    return str(path)


def remake(path: Path, method: str) -> Path:
    """Let a set say that its pixels were made in another way; returns its path."""
    content = path.read_bytes()
    path.unlink()  # its other names keep what it was
    path.write_bytes(content)
    with h5py.File(path, "a") as file:
        file.attrs["preprocess"] = method
    return path


def warnings(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("warning: ")]


@pytest.mark.parametrize(("factor", "found"), [(1, ""), (255, ""), (65535, "0 to 6.554e+04"), (-400, "-400 to 0")])
def test_where_nothing_is_known(factor: float, found: str, workspace: Path, command: Command) -> None:
    for words, name in ((TEST, "test"), (TARGET, "repair")):
        path = scale(workspace / f"data/{name}.h5", factor)
        done = command(*words)
        assert done.code == 0
        told = [f"warning: {path}: values are {found}, expected about 0 to 1 or 0 to 255"] if found else []
        assert warnings(done.err) == told


def test_held_out_rows_against_the_rows_to_repair(workspace: Path, command: Command) -> None:
    path = scale(workspace / "data/test.h5", 255)
    done = command(*OPTIMIZE, *HELD_OUT, "--output-dir", "out")
    assert done.code == 0, done.err
    first = workspace / "data/negative/6/repair.h5"
    assert warnings(done.err) == [f"warning: {path}: values are 0 to 255, expected about 0 to 1 as in {first}"]


def test_held_out_rows_of_a_batch(batchspace: Path, command: Command) -> None:
    path = scale(batchspace / "val.h5", 255)
    words = ["batch", "--method", "Arachne", "--model-dir", "model.keras", "--chunks", "chunks", "--labels", "6"]
    words += ["--val-data", "val.h5"]
    words += ["--num-particles", "6", "--num-iterations", "1", "--max-rounds", "1", "--positive-weights", "0.15x"]
    done = command(*words, "--output-dir", "run", *HERE)
    assert done.code in (0, 3), done.err
    first = batchspace / "chunks/0/repair.h5"
    assert warnings(done.err) == [f"warning: {path}: values are 0 to 255, expected about 0 to 1 as in {first}"]


def test_what_a_model_was_trained_on(workspace: Path, command: Command) -> None:
    scale(workspace / "data/val.h5", 2)
    train = ["train", "--model", "base", "--data-dir", "data", "--target-data", "val.h5", "--output-dir", "trained"]
    assert command(*train, "--epochs", "1", "--verbose", "0").code == 0
    assert json.loads(Path("trained/training.json").read_text())["data"]["values"] == [0, 2]
    test = ["test", "--model-dir", "trained", "--data-dir", "data", *HERE]
    assert warnings(command(*test).err) == []
    path = scale(workspace / "data/test.h5", 255)
    found = f"warning: {path}: values are 0 to 255, expected about 0 to 2, which trained/model.keras was trained on"
    assert warnings(command(*test).err) == [found]

    facts = json.loads(Path("trained/training.json").read_text())
    for other in (
        {**facts, "fingerprint": "of another"},
        {**facts, "data": {}},
        [],
        {**facts, "data": {"values": ["a"]}},
    ):
        Path("trained/training.json").write_text(json.dumps(other))
        assert warnings(command(*test).err) == []


def test_rows_made_in_another_way_than_those_to_repair(workspace: Path, command: Command) -> None:
    """The model of the workspace tells nothing of its rows; the repaired one does."""
    path = remake(workspace / "data/val.h5", "toolkit")
    done = command(*OPTIMIZE, *HELD_OUT, "--output-dir", "out")
    assert done.code == 0, done.err
    first, found = workspace / "data/negative/6/repair.h5", "images were made with --preprocess toolkit, expected pad,"
    assert warnings(done.err) == [f"warning: {path}: {found} as in {first}"]
    facts = json.loads(Path("out/repair/repaired.json").read_text())
    assert (facts["verb"], facts["data"]) == ("repaired", {"preprocess": "pad", "values": None})
    test = ["test", "--model-dir", "out/repair", "--data-dir", "data", *HERE]
    assert warnings(command(*test).err) == []
    told = f"warning: {path}: {found} which out/repair/model.keras was repaired with"
    assert warnings(command(*test, "--target-data", "val").err) == [told]
    assert warnings(command("test", "--model-dir", "model.keras", *test[3:], "--target-data", "val").err) == []
    Path("goals.toml").write_text("[[require]]\nmax_drop = 0.5\n")
    both = [*test, "--target-data", "val", "--requirements", "goals.toml", "--base-model-dir"]
    assert warnings(command(*both, "model.keras").err) == [told]
    both[2], before = "model.keras", "out/repair"
    assert warnings(command(*both, before).err) == [told]  # it is the model before that knows


def test_what_train_knew_goes_with_a_repaired_model(workspace: Path, command: Command) -> None:
    model = load_model(Path("model.keras"))
    facts = {"fingerprint": model.fingerprint, "data": {"preprocess": "toolkit", "values": [0, 1]}}
    Path("training.json").write_text(json.dumps(facts))
    done = command(*OPTIMIZE, "--output-dir", "out")
    assert done.code == 0, done.err
    said = "images were made with --preprocess pad, expected toolkit, which"
    given, out = model.path, "out/repair/model.keras"
    told = warnings(done.err)
    negatives, positives = (workspace / f"data/{name}/repair.h5" for name in ("negative/6", "positive"))
    assert told == [f"warning: {path}: {said} {given} was trained with" for path in (negatives, positives)]
    test = command("test", "--model-dir", "out/repair", "--data-dir", "data", *HERE)
    assert warnings(test.err) == [f"warning: {workspace / 'data/test.h5'}: {said} {out} was trained with"]
    scaled = scale(workspace / "data/test.h5", 255)
    test = command("test", "--model-dir", "out/repair", "--data-dir", "data", *HERE)
    assert warnings(test.err) == [
        f"warning: {scaled}: values are 0 to 255, expected about 0 to 1, which {out} was trained on"
    ]
