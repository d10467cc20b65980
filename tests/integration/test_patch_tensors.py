from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.patches.arrow import read_placed, write_patch
from engine.patches.patch import Patch, applied, tensors_patch
from tests.engine.patches.test_save import content
from tests.integration.conftest import SOURCES, Command, Refused, ok, weights_of
from tests.integration.test_patch import written

TENSORS = {"model.keras": "dense_1", "sequential.h5": "dense", "sequential-savedmodel": "dense"}
"""A Dense layer of each model."""


def tensors(name: str, layer: str) -> Patch:
    """Write tensors.arrow, all of a Dense layer anew; the first value of its kernel stays."""
    old = {path: array for path, array in weights_of(name).items() if path.startswith(f"{layer}/")}
    new = {path: array + np.float32(2) for path, array in old.items()}
    new[f"{layer}/kernel"][0, 0] = old[f"{layer}/kernel"][0, 0]
    patch = tensors_patch(old, new)
    write_patch(Path("tensors.arrow"), patch, {path: array.shape for path, array in old.items()})
    return patch


@pytest.mark.parametrize("name", SOURCES)
def test_whole_tensors(name: str, models: Path, command: Command, refused: Refused) -> None:
    """Applied, refused where stale, shown, found again as a difference and taken back."""
    layer = TENSORS[name]
    patch, before = tensors(name, layer), weights_of(name)
    rows, columns = before[f"{layer}/kernel"].shape
    count = (rows + 1) * columns
    assert len(patch) == count
    apply = ["patch", "apply", "--model-dir", name, "--output-dir"]
    done = command(*apply, "there", "tensors.arrow")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{count - 1} weights changed\n")
    after = weights_of("there/repair")
    for path, array in before.items():
        assert after[path].tobytes() == applied(patch, path, array).tobytes()
    again = ["patch", "apply", "--model-dir", "there/repair", "--output-dir"]
    refused(*again, "twice", "tensors.arrow", says=("error: tensors.arrow does not fit there/repair", "at index 1 is "))

    shown = command("patch", "show", "tensors.arrow")
    assert (shown.code, shown.err) == (0, "")
    first, header, _, kernel, bias = shown.out.splitlines()
    assert first == f"{count - 1} weights change"
    assert header.split() == ["weight", "shape", "changed", "largest", "change", "RMS", "change"]
    path, shape, changed, largest, rms = kernel.split()
    assert (path, shape, changed) == (f"{layer}/kernel", f"{rows}x{columns}", str(rows * columns - 1))
    assert float(largest) == pytest.approx(2)
    assert float(rms) == pytest.approx(2 * np.sqrt(1 - 1 / (rows * columns)), rel=1e-5)
    assert bias.split()[:3] == [f"{layer}/bias", str(columns), str(columns)]
    found = command("patch", "diff", "--model-dir", name, "--other-model-dir", "there/repair", "--output", "d.arrow")
    _, *lines = shown.out.splitlines()
    assert found.out.splitlines() == [f"{count - 1} weights differ", *lines, "created files:", "d.arrow"]
    assert Path("d.arrow").read_bytes() == Path("tensors.arrow").read_bytes()

    done = command("patch", "revert", "tensors.arrow", "--output", "undo.arrow")
    assert done.out == f"{count} weights\ncreated files:\nundo.arrow\n"
    ok(command(*again, "back", "undo.arrow"))
    file = {"model.keras": "/model.keras", "sequential.h5": "/model.h5", "sequential-savedmodel": ""}[name]
    assert content(Path(f"back/repair{file}")) == content(Path(name))


def test_whole_tensors_and_single_weights(models: Path, command: Command, refused: Refused) -> None:
    """A union of both, also taken back; what a tensor of another shape is told."""
    patch = tensors("model.keras", "dense_1")
    written("one.arrow", "model.keras", [("dense_1/kernel", 0), ("dense_1/kernel", 7)], [3.0, 4.0])
    written("two.arrow", "model.keras", [("conv2d/bias", flat) for flat in range(11)], [3.0] * 11)
    merge = ["patch", "merge", "tensors.arrow"]
    done = command(*merge, "one.arrow", "--output", "whole.arrow")
    assert done.out.startswith("970 weights, on 1 of them the patches disagree\n")
    placed = read_placed(Path("whole.arrow"))
    assert placed.whole == {"dense_1/kernel": (96, 10), "dense_1/bias": (10,)}
    assert placed.patch.new[[0, 7]].tolist() == [3, patch.new[7]]

    done = command(*merge, "two.arrow", "--output", "mixed.arrow")
    assert done.out.startswith("981 weights, on 0 of them the patches disagree\n")
    assert not read_placed(Path("mixed.arrow")).whole
    assert len(command("patch", "show", "mixed.arrow").out.splitlines()) == 1 + 2 + 40 + 1
    ok(command("patch", "revert", "mixed.arrow", "--output", "undo.arrow"))
    ok(command("patch", "apply", "mixed.arrow", "--model-dir", "model.keras", "--output-dir", "out"))
    ok(command("patch", "apply", "undo.arrow", "--model-dir", "out/repair", "--output-dir", "back"))
    assert content(Path("back/repair/model.keras")) == content(Path("model.keras"))
    found = command("patch", "diff", "--model-dir", "model.keras", "--other-model-dir", "out/repair")
    assert [line.split()[0] for line in found.out.splitlines()] == [
        *("980", "weight", "--------------", "conv2d/bias", "dense_1/kernel", "dense_1/bias")
    ]

    write_patch(Path("turned.arrow"), patch, {"dense_1/kernel": (10, 96), "dense_1/bias": (10,)})
    says = "turned.arrow: 'dense_1/kernel' has the shape (10, 96), expected (96, 10) as in the model"
    refused("patch", "apply", "turned.arrow", "--model-dir", "model.keras", "--output-dir", "no", says=(says,))
    says = "'dense_1/kernel' has the shape (96, 10) in one patch and (10, 96) in another, expected patches of one model"
    refused(*merge, "turned.arrow", "--output", "no.arrow", says=(says,))
