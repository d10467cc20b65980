"""What users of eAI-Repair-Toolkit are used to: its numbers of layers, files, flags, and how much commands say."""

from __future__ import annotations

from ast import literal_eval
from pathlib import Path

import numpy as np
import pytest

from engine.data.image_set import open_image_set
from engine.models.load import load_model
from engine.patches.arrow import read_patch
from tests.integration.conftest import SHIPPED, Command, Refused, changed_weights, ok, weights_of

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
        ok(command("localize", *MODEL, f"--target_layer={number}", *HERE))
        text = (SHIRT / "weights.csv").read_bytes()
        assert {line.split(b",")[0].decode() for line in text.splitlines()} == {layer}
        if number == "-1":
            assert text == named


@pytest.mark.parametrize("layers", [(7, 8), (7,)], ids=["two", "the hidden one"])
def test_weights_csv_of_dense_layers(layers: tuple[int, ...], workspace: Path, command: Command) -> None:
    """The toolkit's file says by itself what is under repair, and comes back with the new values of its layers."""
    kernels = [np.array(load_model(Path("model.keras")).model.layers[number].kernel) for number in (7, 8)]
    places = [(7, 3, 5), (8, 10, 6), (7, 100, 90), (8, 2, 0), (8, 50, 6)]
    places = [place for place in places if place[0] in layers]
    rewrite("".join(f"{layer},{i},{j},0.5\n" for layer, i, j in places))
    ok(command("optimize", "--method=Arachne", *MODEL, *SMALL, *HERE))
    rows = [line.split(",") for line in (SHIRT / "weights.csv").read_text().splitlines()]
    assert [tuple(map(int, row[:3])) for row in rows] == places
    after = weights_of(SHIRT / "repair")
    for (layer, i, j), row in zip(places, rows, strict=True):
        assert np.float32(row[3]) == kernels[layer - 7][i, j]
        kernels[layer - 7][i, j] = np.float32(row[4])
    changed = changed_weights(weights_of("model.keras"), after)
    assert changed == {("dense/kernel", "dense_1/kernel")[layer - 7] for layer in layers}
    for name, kernel in zip(("dense", "dense_1"), kernels, strict=True):
        np.testing.assert_array_equal(after[f"{name}/kernel"], kernel)


def test_what_commands_say(workspace: Path, command: Command) -> None:
    """Nothing at 0; at 2 the weights as lists: those found, and those changed."""
    localize, optimize = ("localize", *MODEL), ("optimize", "--method=Arachne", *MODEL, *SMALL, "--overwrite")
    evaluate = ("evaluate", *MODEL, "--output_dir=out", "--num_runs=1", *SMALL[:2])
    for words in (localize, optimize, evaluate):
        done = command(*words, *HERE)
        assert (done.code, done.out, done.err) == (0, "", "")
    assert Path("out/result.txt").is_file()
    assert command(*localize, "--num_workers=0", "--verbose=2").out.endswith(lists())
    done = command(*optimize, "--num_workers=0", "--verbose=2")
    assert lists() in done.out
    assert all(len(literal_eval(line)) == 5 for line in lists().splitlines())
    localize = (*localize, "--target_layer=conv2d", "--num_grad=40")
    out = command(*localize, "--num_workers=0", "--verbose=2").out
    listed = [literal_eval(line) for line in out.splitlines() if line.startswith("[")]
    patch = read_patch(SHIRT / "weights.arrow")
    expected = zip(patch.weight, patch.flat_index.tolist(), strict=True)
    assert [(path, index) for path, index, _, _ in listed] == list(expected)


def lists() -> str:
    """`weights.csv` as Python has lists of its rows."""
    rows = (SHIRT / "weights.csv").read_text().splitlines()
    return "\n".join(f"[{', '.join(row.split(','))}]" for row in rows) + "\n"


def test_values_without_flags(workspace: Path, command: Command) -> None:
    """In the toolkit's order, past those that are given by name; folders are `outputs` where none are given."""
    Path("data").rename("outputs")
    Path("model.keras").rename("outputs/model.keras")
    by_name = ok(command("test", "--model-dir=outputs/model.keras", "--data-dir=outputs", "--target-data=val", *HERE))
    for words in (
        ("test", "0", "64", "outputs", "outputs", "val.h5", "--num_workers=0"),
        ("test", "64", "--verbose", "0", "outputs", "--target_data=val", "--num-workers", "0"),
        ("test", "--target_data=val", *HERE),
    ):
        assert command(*words) == by_name, words
    weights = Path("outputs/negative/6/weights.csv")
    weights.unlink()
    ok(command("localize", "Arachne", "outputs", "outputs/negative/6", "0", "--num_workers=0"))
    assert weights.is_file()
    Path("outputs/negative/0/pareto_front.png").unlink(missing_ok=True)
    ok(command("localize", *HERE))
    assert Path("outputs/negative/0/pareto_front.png").is_file()
    words = ("outputs", "outputs/negative/6", "outputs/positive", "out", *SMALL, *HERE)
    ok(command("optimize", "Arachne", *words))
    assert Path("out/repair").is_dir()
    done = command(
        "optimize", "--method=Arachne", "--target-data-dir", "outputs/negative/6", "outputs/negative/5", *HERE
    )
    assert done.code == 2 and "unexpected extra argument" in done.err
    Path("inputs").symlink_to(SHIPPED)
    done = command("prepare", "fashion-mnist", "inputs", "made", "0.1", "3", *HERE)
    assert done.code == 0 and done.out.startswith("train_images: (")
    again = command("prepare", "fashion-mnist", "--output_dir=named", "--divide-rate=0.1", "--random-state=3", *HERE)
    assert again == done
    many = command("target", "64", "outputs", "outputs", "more")
    assert many.code == 2 and "unexpected extra argument" in many.err


def test_flags_of_other_commands_are_noted(workspace: Path, command: Command) -> None:
    of_searches = ("num-particles", "num-iterations", "min-iteration-range", "num-input-pos-sampled", "velocity-phi")
    flags = [f"--{name}" for name in of_searches]
    weights = (SHIRT / "weights.csv").read_bytes()
    done = command("localize", *MODEL, *(f"{flag.replace('-', '_').replace('__', '--')}=5" for flag in flags), *HERE)
    assert done.code == 0 and (SHIRT / "weights.csv").read_bytes() == weights
    noted = [f"note: {flag} is of optimize and changes nothing here" for flag in flags]
    assert sorted(done.err.splitlines()) == sorted(noted)
    done = command("localize", *MODEL, "--num_particles=many", *HERE)
    assert done.code == 2 and "'many' is not a valid float" in done.err
    done = command("optimize", *MODEL, "--num_grad=30", "--num_particles=4", "--num_iterations=2", *HERE)
    assert (done.code, done.err) == (0, "note: --num-grad is of localize and changes nothing here\n")
    words = ("prepare", "fashion-mnist", f"--input-dir={SHIPPED}", "--output-dir=made", *HERE)
    done = ok(command(*words, "--single_dir=True", "--target_label=weather"))
    note = "note: --model is of train and changes nothing here\n"
    assert command("test", "--model=base", "--model_dir=model.keras", "--data_dir=data", *HERE).err == note
    assert done.err.count("is of other data sets and changes nothing here\n") == 2


def test_rows_of_the_toolkit(workspace: Path, command: Command) -> None:
    """Where it has a seed for them; where it has none it is said."""
    words = ("prepare", "fashion-mnist", f"--input-dir={SHIPPED}", "--random-state=3", *HERE)
    ok(command(*words, "--output-dir=ours", "--divide-rate=0.2"))
    ok(command(*words, "--output-dir=theirs", "--like-toolkit"))
    ours, theirs = (open_image_set(Path(folder, "repair.h5")) for folder in ("ours", "theirs"))
    assert ours.rows == theirs.rows
    assert not np.array_equal(ours.labels, theirs.labels)
    for name in ("gtsrb", "bdd"):
        done = command("prepare", name, "--like_toolkit=True", *HERE)
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith(f"error: eAI-Repair-Toolkit shuffles {name} without a seed")


def test_what_the_rows_of_the_toolkit_need(workspace: Path, refused: Refused) -> None:
    """A seed, unless rows are never shuffled, as those of a table; and no ratio where the toolkit knows none."""
    Path("images/train").mkdir(parents=True)
    for name in ("fashion-mnist", "cifar-10", "bdd-objects"):
        words = ("prepare", name, "--input-dir=images", "--output-dir=made", "--like_toolkit", *HERE)
        refused(*words, says=("draws other rows each time without a seed", "expected --random-state"))
        if name != "bdd-objects":
            ratio = ("--random-state=0", "--data_ratio=0.5,0.1,0.2,0.2")
            refused(*words, *ratio, says=("data_ratio changes nothing with --like-toolkit", "expected --divide-rate"))
        refused(*words, "--random-state=0", says=("images",))
    Path("exp2").mkdir()
    refused("prepare", "bdd-objects", "--input-dir=exp2", "--like-toolkit", *HERE, says=("labels.csv cannot be read",))
