"""What users of eAI-Repair-Toolkit are used to: its numbers of layers, files, flags, and how much commands say."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.models.load import load_model
from engine.models.weight_paths import weight_variables
from tests.integration.conftest import Command

SHIRT = Path("data/negative/6")
MODEL = ("--model_dir=model.keras", f"--target_data_dir={SHIRT}")
HERE = ("--num_workers=0", "--verbose=0")
SMALL = ("--num_iterations=3", "--num_particles=8", "--run_dir=run")


def rewrite(text: str) -> None:
    """Other localised weights; the file is a hard link to what other tests read."""
    (SHIRT / "weights.csv").unlink()
    (SHIRT / "weights.csv").write_text(text)


def test_layers_from_the_end(workspace: Path, command: Command) -> None:
    """-1 is the last layer, -2 the one before it: a Dense layer of 96 units behind 1152 inputs here."""
    named = (SHIRT / "weights.csv").read_bytes()
    for number, layer in (("-1", "8"), ("-2", "7")):
        done = command("localize", *MODEL, f"--target_layer={number}", *HERE)
        assert done.code == 0, done.err
        text = (SHIRT / "weights.csv").read_bytes()
        assert {line.split(b",")[0].decode() for line in text.splitlines()} == {layer}
        if number == "-1":
            assert text == named


def test_weights_csv_over_several_dense_layers(workspace: Path, command: Command) -> None:
    """The toolkit's file says by itself what is under repair, and comes back with the new values of both layers."""
    kernels = [np.array(load_model(Path("model.keras")).model.layers[number].kernel) for number in (7, 8)]
    places = [(7, 3, 5), (8, 10, 6), (7, 100, 90), (8, 2, 0), (8, 50, 6)]
    rewrite("".join(f"{layer},{i},{j},0.5\n" for layer, i, j in places))
    done = command("optimize", "--method=Arachne", *MODEL, *SMALL, *HERE)
    assert done.code == 0, done.err
    rows = [line.split(",") for line in (SHIRT / "weights.csv").read_text().splitlines()]
    assert [tuple(map(int, row[:3])) for row in rows] == places
    before = weight_variables(load_model(Path("model.keras")).model)
    after = weight_variables(load_model(SHIRT / "repair").model)
    for (layer, i, j), row in zip(places, rows, strict=True):
        assert np.float32(row[3]) == kernels[layer - 7][i, j]
        kernels[layer - 7][i, j] = np.float32(row[4])
    changed = {path for path in before if not np.array_equal(np.array(before[path]), np.array(after[path]))}
    assert changed == {"dense/kernel", "dense_1/kernel"}
    for name, kernel in zip(("dense", "dense_1"), kernels, strict=True):
        np.testing.assert_array_equal(np.array(after[f"{name}/kernel"]), kernel)


def test_weights_csv_about_a_layer_that_is_not_dense(workspace: Path, command: Command) -> None:
    rewrite("0,0,0,0.5\n8,0,0,0.5\n")
    done = command("optimize", "--method=Arachne", *MODEL, *SMALL, *HERE)
    assert done.code == 2
    assert "row 1 is about layer 0, expected layer 8 (dense_1)" in done.err
