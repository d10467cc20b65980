"""`patch merge --method weighted`: coefficients of patches by DistrRep's score, on real images, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from engine.core.types import Int64
from engine.data.image_set import open_image_set
from engine.metrics.dist_rep import read_merge_settings
from engine.models.load import load_model
from engine.models.weight_paths import weight_variables
from engine.patches.arrow import read_placed, write_patch
from engine.patches.patch import applied, patch_between, tensors_patch
from tests.integration.conftest import Command, Refused, ok, read_set, weights_of

SETTINGS = {
    "target_misclassifications": {"Shirt": ["T-shirt/top"]},
    "general_misclassifications": ["Shirt", "Coat", "T-shirt/top"],
    "weights_precisions": {"Shirt": 1, "Coat": 1, "T-shirt/top": 1},
    "weights_misclassifications": {"Shirt": 1, "Shirt,T-shirt/top": 2},
}
MERGE = ["patch", "merge", "--method", "weighted", "--model-dir", "model.keras", "--settings", "dr_setting.json"]
MERGE += ["--val-data", "data/val.h5", "--output", "m.arrow"]
SMALL = ["--num-particles", "8", "--num-iterations", "6"]
BIAS = "dense_1/bias"


def written(name: str, changes: dict[int, float], *, whole: bool = False) -> None:
    """Write a patch that adds to offsets of labels, of all of them or of those that change."""
    bias = weights_of("model.keras")[BIAS]
    new = bias.copy()
    for label, change in changes.items():
        new[label] += np.float32(change)
    patch = tensors_patch({BIAS: bias}, {BIAS: new}) if whole else patch_between(BIAS, bias, new)
    write_patch(Path(name), patch, {BIAS: bias.shape})


def predicted(*patches: str) -> Int64:
    """Classes (1 + P, n) of the validation rows under the model as it is and under each patch."""
    images, _ = read_set("data/val.h5")
    model = load_model(Path("model.keras")).model
    variable = weight_variables(model)[BIAS]
    bias, found = np.array(variable), []
    for value in (bias, *(applied(read_placed(Path(name)).patch, BIAS, bias) for name in patches)):
        variable.assign(value)
        found.append(model.predict(images, verbose=0).argmax(axis=1))
    return np.stack(found)


@pytest.fixture
def place(workspace: Path) -> Path:
    """Two patches that go too far: labels 6 and 0 share rows, and both change the offset of label 6."""
    written("shirt.arrow", {6: 3.0})
    written("both.arrow", {6: -2.0, 4: 4.0}, whole=True)
    Path("dr_setting.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
    return workspace


def numbers(line: str) -> list[str]:
    return line.rsplit(maxsplit=3)[1:]


@pytest.mark.parametrize("apart", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_what_it_prints_is_what_the_patch_does(apart: bool, place: Path, command: Command) -> None:
    """Wrong rows before and after, and S of the model, of each patch and of the merge, which is better than all."""
    done = command(*MERGE, "shirt.arrow", "both.arrow", *SMALL, *(["--apart"] if apart else []))
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    images = open_image_set(Path("data/val.h5"))
    score = read_merge_settings(Path("dr_setting.json"), images.classes, images.label_names)
    classes = predicted("shirt.arrow", "both.arrow", "m.arrow")
    own, *alone, merge = score.scores(images.labels, classes)
    printed = [float(line.split()[-1]) for line in lines[2:6]]
    np.testing.assert_allclose(printed, [own, *alone, merge], atol=1e-6)
    assert merge > max(own, *alone)
    shares = [float(line.split()[-2]) for line in lines[3:5]]
    assert all(0 <= share <= 1 for share in shares)

    rows = {line.rsplit(maxsplit=3)[0].strip(): [int(n) for n in numbers(line)] for line in lines[8:12]}
    assert list(rows) == ["6 Shirt", "4 Coat", "0 T-shirt/top", "6 Shirt as 0 T-shirt/top"]
    mine = images.labels == 6
    assert rows["6 Shirt"] == [mine.sum(), *((classes[n][mine] != 6).sum() for n in (0, 3))]
    assert rows["6 Shirt as 0 T-shirt/top"] == [mine.sum(), *((classes[n][mine] == 0).sum() for n in (0, 3))]

    assert lines[12:] == ["10 weights, 1 of them are changed by several patches", "created files:", "m.arrow"]
    old, placed = weights_of("model.keras")[BIAS], read_placed(Path("m.arrow"))
    assert placed.whole == {BIAS: (10,)}
    new = applied(placed.patch, BIAS, old)
    ok(command("patch", "apply", "m.arrow", "--model-dir", "model.keras", "--output-dir", "out"))
    assert new.tobytes() == weights_of("out/repair")[BIAS].tobytes()
    np.testing.assert_allclose(new[4], old[4] + 4 * shares[1], atol=1e-3)
    if not apart:
        np.testing.assert_allclose(new[6], old[6] + 3 * shares[0] - 2 * shares[1], atol=1e-3)


def test_it_is_the_same_every_time(place: Path, command: Command) -> None:
    merge = [*MERGE, "shirt.arrow", "both.arrow", *SMALL, "--overwrite"]
    first = command(*merge)
    content = Path("m.arrow").read_bytes()
    assert command(*merge).out == first.out and Path("m.arrow").read_bytes() == content
    assert command(*merge, "--seed", "1").out != first.out


@pytest.mark.parametrize("name", ["DE", "random"])
def test_any_optimiser(name: str, place: Path, command: Command) -> None:
    """Another merge than the swarm's, and by S no worse than the patches."""
    merge = [*MERGE, "shirt.arrow", "both.arrow", *SMALL, "--overwrite"]
    swarm = command(*merge).out
    done = command(*merge, "--optimiser", name)
    assert (done.code, done.err) == (0, "") and done.out != swarm
    *others, best = (float(line.split()[-1]) for line in done.out.splitlines()[2:6])
    assert best >= max(others)


def test_more_rows_count_too(place: Path, command: Command) -> None:
    """Rows that the model gets right, as `target` writes them: labels have more rows, and no more wrong ones."""
    merge = [*MERGE, "shirt.arrow", "both.arrow", "--num-particles", "3", "--num-iterations", "1", "--overwrite"]

    def shirts(*more: str) -> list[int]:
        lines = command(*merge, *more).out.splitlines()
        return [int(number) for number in numbers(lines[8])]

    rows, wrong, _ = shirts()
    right = open_image_set(Path("data/positive/repair.h5")).labels == 6
    assert shirts("--positive-inputs-dir", "data/positive")[:2] == [rows + right.sum(), wrong]


def test_a_weights_csv_and_a_weight_of_the_last_layer(place: Path, command: Command) -> None:
    """Kernels of the last Dense layer alone take the way of a batch."""
    kernel = weights_of("model.keras")["dense_1/kernel"]
    Path("weights.csv").write_text(f"8,95,7,{kernel[95, 7]!s},5.0\n8,0,6,{kernel[0, 6]!s},2.0\n")
    changed = kernel.copy()
    changed[0, 6] = 1.5
    write_patch(Path("one.arrow"), patch_between("dense_1/kernel", kernel, changed), {"dense_1/kernel": kernel.shape})
    done = command(*MERGE, "weights.csv", "one.arrow", *SMALL)
    assert (done.code, done.err) == (0, "")
    own, first, second, merge = (float(line.split()[-1]) for line in done.out.splitlines()[2:6])
    assert merge >= max(own, first, second)


def settings(**changes: object) -> None:
    Path("dr_setting.json").write_text(json.dumps({**SETTINGS, **changes}), encoding="utf-8")


def without(option: str) -> list[str]:
    at = MERGE.index(option)
    return [*MERGE[:at], *MERGE[at + 2 :]]


def test_too_many_coefficients(place: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.runs.weighted.SWARM_NUMBERS", 16)
    says = "several patches change 1 weights, expected at most 0 apart"
    refused(*MERGE, "shirt.arrow", "both.arrow", *SMALL, "--apart", says=(says,))


def test_what_is_refused(place: Path, refused: Refused) -> None:
    two = ["shirt.arrow", "both.arrow"]
    for name in ("a.arrow", "b.arrow"):
        written(name, {}, whole=True)
    cases: list[tuple[Sequence[str], str]] = [
        ([*without("--model-dir"), *two], "--model-dir is missing and the method is weighted, expected it with it"),
        ([*without("--settings"), *two], "--settings is missing and the method is weighted"),
        ([*without("--val-data"), *two], "--val-data is missing and the method is weighted"),
        ([*MERGE, "shirt.arrow"], "shirt.arrow: found one patch, expected at least two to merge"),
        ([*MERGE, "shirt.arrow", "shirt.arrow"], "shirt.arrow: a patch is named twice, expected each once"),
        ([*MERGE, "shirt.arrow", "gone.arrow"], "gone.arrow: no such file or folder"),
        ([*MERGE, "a.arrow", "b.arrow"], "a.arrow, b.arrow: change no weight, expected patches that do"),
        ([*MERGE, *two, "--num-particles", "0"], "num_particles is 0"),
        (
            [*MERGE, *two, "--num-particles", "1000000000"],
            "num_particles is 1000000000 and 2 patches are merged, expected at most 8388608",
        ),
        ([*MERGE, *two, "--num-iterations", "0"], "num_iterations is 0"),
        (["patch", "merge", *two, "--output", "m.arrow", "--apart"], "--apart is of --method weighted, expected"),
        (["patch", "merge", *two, "--output", "m.arrow", "--seed", "0"], "--seed is of --method weighted, expected"),
    ]
    for words, says in cases:
        refused(*words, says=(says,))
    bad: list[tuple[dict[str, object], str]] = [
        ({"weights_precisions": {"Shirt": 0}}, "weights_precisions has the sum 0"),
        ({"weights_misclassifications": {"Shirt": -1}}, "weights_misclassifications of label 6 is -1"),
        ({"weights_precisions": {"Shirt": 1}}, "weights_precisions has no weight of label 4"),
        ({"general_misclassifications": ["Shrit"]}, "has 'Shrit' (did you mean 'Shirt'?)"),
    ]
    for changes, says in bad:
        settings(**changes)
        refused(*MERGE, *two, says=("error: dr_setting.json: ", says))
