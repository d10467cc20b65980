from __future__ import annotations

import re
from pathlib import Path

import keras
import numpy as np
import pytest

from engine.metrics.accuracy import compare, wilson_interval
from engine.metrics.requirements import Requirement, check_requirements
from tests.integration.conftest import HERE, Command, Refused, contents, ok, read_set, rewrite_set

TEST = ["test", "--model-dir", "model.keras", "--data-dir", "data", *HERE]


def predictions(model: Path) -> np.ndarray:
    images, _ = read_set("data/test.h5")
    return np.array(keras.saving.load_model(model, compile=False)(images)).argmax(axis=1)


def labels() -> np.ndarray:
    return read_set("data/test.h5")[1]


def goals(text: str) -> Path:
    path = Path("goals.toml")
    path.write_text(text)
    return path


def cells(out: str) -> list[list[str]]:
    lines = out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("requirement "))
    assert max(map(len, lines)) <= 80
    table = "\n".join(lines[start:-1]).replace("\n  ", "  ")  # what is required may stand on a line of its own
    rows = [re.split(r" {2,}", line.strip()) for line in table.split("\n")]
    return [rows[0], *rows[2:]]


def test_met_and_not_met(workspace: Path, command: Command) -> None:
    true, predicted = labels(), predictions(Path("model.keras"))
    shirts, right = int((true == 6).sum()), int(((true == 6) & (predicted == 6)).sum())
    taken = int(((true == 6) & (predicted == 0)).sum())
    assert 0 < taken < right < shirts < len(true)
    accuracy = right / shirts
    low, high = wilson_interval(right, shirts)
    lowest, highest = f"{100 * low:.1f}", f"{100 * high:.1f}"
    text = f'[[require]]\nlabel = "Shirt"\nmin_accuracy = {accuracy!r}\n'
    before = contents(workspace)
    met = command(*TEST, "--requirements", goals(text))
    assert met.err == ""
    assert met.code == 0  # equal to the limit
    shown = [f"{100 * accuracy:.2f}", f"{lowest} to {highest}", f"{right} of {shirts}", "met"]
    assert met.out.splitlines()[0] == f"accuracy: {100 * (true == predicted).mean():.2f}%"
    assert cells(met.out)[0] == ["requirement", "required %", "value %", "95 % interval", "rows", "verdict"]
    (line,) = cells(met.out)[1:]
    assert line[0].startswith("accuracy of 6 Shirt at least ")
    assert line[2:] == shown
    assert met.out.endswith("\nrequirements: 1 of 1 met\n")
    # A confidence is about rows to come: what is measured is the same.
    assert command(*TEST, "--requirements", goals(f"confidence = 0.95\n{text}")) == met

    text += "[[require]]\ntrue = 6\npredicted = 0\nmax_rate = 0.001\n[[require]]\nmin_accuracy = 0.5\n"
    missed = command(*TEST, "--requirements", goals(text), "--per-label")
    assert (missed.code, missed.err) == (3, "")
    assert [line[-1] for line in cells(missed.out)[1:]] == ["met", "not met", "met"]
    rate = cells(missed.out)[2]
    assert rate[:2] == ["6 Shirt taken for 0 T-shirt/top in at most 0.1 % of its rows", "<= 0.1"]
    assert (rate[2], rate[4]) == (f"{100 * taken / shirts:.2f}", f"{taken} of {shirts}")
    assert missed.out.endswith("\nrequirements: 2 of 3 met\n")
    assert "label          correct" in missed.out  # the table per label comes as well
    assert set(contents(workspace)) == {*before, "goals.toml"}


@pytest.fixture
def other(workspace: Path) -> Path:
    """The shipped model with a bias that makes it see shirts."""
    model = keras.saving.load_model("model.keras", compile=False)
    kernel, bias = model.layers[-1].get_weights()
    bias[6] += 3.0
    model.layers[-1].set_weights([kernel, bias])
    model.save("other.keras")
    return workspace / "other.keras"


def test_against_a_base_model(other: Path, command: Command) -> None:
    true, base, new = labels(), predictions(Path("model.keras")), predictions(other)
    case = compare(true, base, new, 10)
    drop = int(np.trace(case.before) - np.trace(case.after))
    assert case.fixed[6] > 0
    assert case.broken.sum() > 0
    path = goals(f"[[require]]\nmax_drop = {max(0, drop) / len(true)!r}\n[[require]]\nlabel = 6\nmax_drop = 0\n")
    words = ["test", "--data-dir", "data", "--requirements", path, *HERE]
    done = command(*words, "--model-dir", other, "--base_model_dir=model.keras")
    assert (done.code, done.err) == (0, "")
    overall, shirt = cells(done.out)[1:]
    required = Requirement("max_drop", 0.0, None, None, "")
    (verdict,) = check_requirements([required], case)
    assert overall[2:4] == [f"{100 * drop / len(true):.2f}", f"{100 * verdict.low:.1f} to {100 * verdict.high:.1f}"]
    assert overall[4] == f"{np.trace(case.before)} -> {np.trace(case.after)} of {len(true)}"
    assert shirt[1] == "<= 0"
    assert shirt[4] == f"{case.before[6, 6]} -> {case.after[6, 6]} of {case.totals[6]}"
    assert float(shirt[2]) < 0
    # The other way round, what was gained is lost.
    back = command(*words, "--model-dir", "model.keras", "--base-model-dir", other)
    assert back.code == 3
    assert cells(back.out)[2][4:] == [f"{case.after[6, 6]} -> {case.before[6, 6]} of {case.totals[6]}", "not met"]
    # And a model against itself loses nothing.
    same = ok(command(*words, "--model-dir", other, "--base-model-dir", other))
    assert cells(same.out)[1][2] == "0.00"
    # What is no loss is a gain, of as many points.
    won = int(case.after[6, 6] - case.before[6, 6])
    goals(f"[[require]]\nlabel = 6\nmin_gain = {won / int(case.totals[6])!r}\n[[require]]\nmin_gain = 1\n")
    gained = command(*words, "--model-dir", other, "--base-model-dir", "model.keras")
    mine, everything = cells(gained.out)[1:]
    assert (gained.code, mine[-1], everything[-1]) == (3, "met", "not met")  # equal to the limit
    assert (mine[2], mine[4]) == (shirt[2].removeprefix("-"), shirt[4])
    assert everything[1] == ">= 100"


def test_each_label_with_rows(workspace: Path, command: Command) -> None:
    done = ok(command(*TEST, "--requirements", goals('[[require]]\nlabel = "*"\nmin_accuracy = 0')))
    assert len(cells(done.out)[1:]) == len(np.unique(labels()))


def test_a_value_that_rounds_to_the_limit_is_shown_apart(workspace: Path, command: Command) -> None:
    true, predicted = labels(), predictions(Path("model.keras"))
    limit = round(float((true == predicted).mean()), 6) + 0.00001
    done = command(*TEST, "--requirements", goals(f"[[require]]\nmin_accuracy = {limit!r}"))
    assert done.code == 3
    ((_, required, value, *_),) = cells(done.out)[1:]
    assert float(value) < float(required.removeprefix(">= "))
    assert value != f"{100 * limit:.2f}" == f"{100 * (true == predicted).mean():.2f}"


def test_bad_input(workspace: Path, refused: Refused) -> None:
    refused(*TEST, "--requirements", "goals.toml", says=("goals.toml cannot be read (No such file",))
    drop = goals('[[require]]\nmin_accuracy = 0\n[[require]]\nlabel = "*"\nmax_drop = 0.5')
    says = ('goals.toml asks for "drop of 0 T-shirt/top at most 50 points"', "expected --base-model-dir")
    refused(*TEST, "--requirements", drop, says=says)
    refused(*TEST, "--base-model-dir", "model.keras", says=("model.keras is given as base", "expected --requirements"))
    refused(*TEST, "--requirements", drop, "--base-model-dir", "no.keras", says=("no.keras: no such file or folder",))
    wrong = goals('[[require]]\nlabel = "pedestrian"\nmin_accuracy = 0.75')
    refused(*TEST, "--requirements", wrong, says=("goals.toml: [[require]] 1 has label = 'pedestrian'", "Ankle boot"))
    gain = goals("[[require]]\nmin_gain = 0.06")
    says = ('goals.toml asks for "gain of all labels together at least 6 points"', "expected --base-model-dir")
    refused(*TEST, "--requirements", gain, says=says)


def test_label_without_rows(workspace: Path, refused: Refused) -> None:
    keep = labels() != 6
    rewrite_set(Path("data/test.h5"), lambda arrays: arrays.update({k: array[keep] for k, array in arrays.items()}))
    path = goals("[[require]]\nlabel = 6\nmin_accuracy = 0.75")
    says = (f'{workspace}/data/test.h5 has no rows to judge "accuracy of label 6 at least 75 %" by',)
    refused(*TEST, "--requirements", path, says=says)


def test_base_model_of_other_classes(workspace: Path, refused: Refused) -> None:
    images = keras.Input((32, 32, 3))
    keras.Model(images, keras.layers.Dense(7, activation="softmax")(keras.layers.Flatten()(images))).save("seven.keras")
    path = goals("[[require]]\nmax_drop = 0.5")
    says = ("data/test.h5", "10 classes, the model seven.keras has 7")
    refused(*TEST, "--requirements", path, "--base-model-dir", "seven.keras", says=says)
