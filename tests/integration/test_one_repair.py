"""One name, one repair: a method gives equal weights by every command on the same rows and seed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from cluster.runs import compare, outcomes
from engine.core.types import Float32
from engine.methods.outcome import CHOSEN, FOUND
from engine.methods.registry import METHODS
from tests.integration.conftest import Command

GOALS = """
[[require]]
max_drop = 0.05
[[require]]
label = "Shirt"
min_gain = 0.02
"""
GOAL = ["--requirements", "goals.toml"]
FEW = ["--model-dir", "model.keras", "--num-workers", "0", "--seed", "3"]
SEARCH = ["--num-particles", "8", "--num-iterations", "8"]
TUNED = ["--folds", "3", "--recipes", "2:1:epochs=2,4:1:epochs=2"]
CHECKPOINTS = Path("checkpoints")


@pytest.fixture
def inputs(workspace: Path) -> Path:
    """Goals, the rows of negatives and positives as one chunk, and two checkpoints, the last of which is the model."""
    Path("goals.toml").write_text(GOALS, encoding="utf-8")
    Path("chunks/0").mkdir(parents=True)
    shutil.copy("data/repair.h5", "chunks/0")
    CHECKPOINTS.mkdir()
    model = keras.saving.load_model("model.keras", compile=False)
    model.save_weights(CHECKPOINTS / "weights.10-0.30.weights.h5")
    rng = np.random.default_rng(0)
    for layer in ("dense", "dense_1"):
        kernel = np.array(model.get_layer(layer).kernel)
        model.get_layer(layer).kernel.assign(kernel + rng.normal(0, 0.3 * kernel.std(), kernel.shape))
    bias = model.get_layer("dense_1").bias  # before its last epoch the model found more shirts
    bias.assign(np.array(bias) + 0.5 * (np.arange(10) == 6))
    model.save_weights(CHECKPOINTS / "weights.9-0.30.weights.h5")
    return workspace


def by_optimize(command: Command, words: list[str]) -> dict[str, bytes]:
    target = ["--target-data-dir", "data/negative/6"]
    assert command("optimize", *words, *target, "--output-dir", "one", "--run-dir", "run").code in (0, 3)
    return in_model("one")


def by_evaluate(command: Command, words: list[str]) -> dict[str, bytes]:
    target = ["--target-data-dir", "data/negative/6"]
    assert command("evaluate", *words, *target, "--output-dir", "many", "--num-runs", "1").code == 0
    return in_model("many/repaired_model_0")


def by_batch(command: Command, words: list[str], *more: str) -> dict[str, bytes]:
    chunk = ["--chunks", "chunks", "--labels", "6", *more]
    assert command("batch", *words, *chunk, "--output-dir", "batch").code in (0, 3)
    return in_model("batch")


def by_compare(command: Command, words: list[str], method: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Of what the method itself finds: Arachne's own commands have no choice beside it."""
    found = []

    def spied(subject: Any, cell: Any, outcome: Any, *more: Any) -> Any:
        found.append(outcome.readings[FOUND if method == "Arachne" else CHOSEN].offer.values)
        return rows_of(subject, cell, outcome, *more)

    rows_of, cells_of = outcomes.outcome_rows, compare.cells_of
    monkeypatch.setattr(outcomes, "outcome_rows", spied)
    monkeypatch.setattr(compare, "cells_of", lambda work: [replace(cell, keep=True) for cell in cells_of(work)])
    with h5py.File("chunks/0/repair.h5") as chunk:
        rows = len(chunk["labels"])
    drawn = ["--chunks", "chunks", "--labels", "6", "--draws", "1", "--rows", str(rows), "--test-data", "data/test.h5"]
    assert command("compare", *words, *drawn, "--output-dir", "compared").code == 0
    return in_values(found[0])


def in_model(folder: str) -> dict[str, bytes]:
    """Places and new values of each weight that a command has changed."""
    model = keras.saving.load_model(Path(folder) / "repair" / "model.keras", compile=False)
    return in_values({variable.path: np.array(variable) for variable in model.trainable_variables})


def in_values(values: dict[str, Float32]) -> dict[str, bytes]:
    """The same of the values that `compare` came to."""
    model = keras.saving.load_model("model.keras", compile=False)
    known = {variable.path: np.array(variable) for variable in model.variables}
    found = {}
    for path, value in values.items():
        rows = np.flatnonzero(value.view(np.int32) != known[path].view(np.int32))
        found[path] = rows.tobytes() + value.ravel()[rows].tobytes()
    return {path: told for path, told in found.items() if told}


@pytest.mark.parametrize("method", METHODS)
def test_equal_weights(method: str, inputs: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    held_out, own = ["--val-data", "data/val.h5"], method == "Arachne"
    needs = {"CrossFit": [*TUNED, "--step", "0.5"], "NeuRecover": ["--weights-dir", str(CHECKPOINTS)]}.get(method, [])
    searches = method not in ("head", "tail", "WiSE-FT")
    # By default `compare` promises for as many rows as the test set has.
    needs += ["--promise-rows", "60"] if method in ("CrossFit", "offsets") else []
    words = [*FEW, *held_out, "--method", method, *needs, *(SEARCH if searches else []), *([] if own else GOAL)]
    arachne = (
        [*GOAL, "--mode", "independent", "--positive-weights", "0.15x", "--offers", "1", "--fronts", "1"] if own else []
    )
    named = f"{method}(num_particles=8,num_iterations=8)" if searches else method
    expected = by_optimize(command, words)
    assert expected  # it changes something
    assert by_evaluate(command, words) == expected
    assert by_batch(command, words, *arachne) == expected
    assert by_compare(command, [*FEW, *GOAL, *held_out, "--methods", named, *needs], method, monkeypatch) == expected
