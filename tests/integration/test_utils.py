from __future__ import annotations

import html
import json
import os
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from cli.commands.utils_charts import labels_of
from cli.main import run
from engine.data.image_set import open_image_set
from engine.data.writer import write_empty_image_set
from engine.datasets.fashion_mnist import LABEL_NAMES
from engine.models.load import load_model
from tests.integration.conftest import Command, Refused, contents, read_set, rewrite_set

HERE = ["--num_workers=0", "--verbose=0"]
BEFORE, AFTER = "--model_dir=model.keras", "--model_dir_overlay=repaired"


@pytest.fixture(scope="session")
def repaired_root(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`prepared` with a model in `repaired/` that was repaired for label 6."""
    root = tmp_path_factory.mktemp("repaired") / "root"
    shutil.copytree(prepared, root, copy_function=os.link)
    data = root / "data"
    words = ["optimize", "--model-dir", root / "model.keras", "--target-data-dir", data / "negative" / "6", "--run-dir"]
    words += [root / "run", "--num-iterations", "5", "--num-particles", "10", "--output-dir", root / "optimized", *HERE]
    assert run([str(word) for word in words]) == 0
    (root / "optimized" / "repair").rename(root / "repaired")
    for folder in ("run", "optimized"):
        shutil.rmtree(root / folder)
    return root


@pytest.fixture
def here(repaired_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`repaired_root` under a second name, as the current directory; hard links, as in `workspace`."""
    root = tmp_path / "work"
    shutil.copytree(repaired_root, root, copy_function=os.link)
    monkeypatch.chdir(root)
    return root


def succeed(command: Command, *words: object) -> str:
    """Runs a command of `utils` that must succeed without a word on standard error; returns what it printed."""
    done = command("utils", *words)
    assert (done.code, done.err) == (0, ""), done.err
    return done.out


def predictions(path: Path | str, model: Any = "model.keras") -> tuple[np.ndarray, np.ndarray]:
    """True and predicted classes of the rows of a file, by a plain prediction of a model or of one that is saved."""
    images, labels = read_set(path)
    loaded = load_model(Path(model)).model if isinstance(model, str) else model
    return labels, np.asarray(loaded(images)).argmax(axis=1)


def texts(path: str) -> list[str]:
    found = re.findall(r"<text [^>]*>([^<]*)</text>", Path(path).read_text(encoding="utf-8"))
    return [html.unescape(text) for text in found]


def percents(path: str) -> Counter[str]:
    """The numbers with one digit after the point in an SVG."""
    return Counter(text for text in texts(path) if re.fullmatch(r"\d+\.\d", text))


def shares(labels: np.ndarray, predicted: np.ndarray, only: int | None = None) -> Counter[str]:
    """Percents of the confusions, of half a percent or more, row by row."""
    found: Counter[str] = Counter()
    for true in np.unique(labels) if only is None else [only]:
        for count in np.bincount(predicted[labels == true]):
            share = count / (labels == true).sum()
            if share >= 0.005:
                found[f"{100 * share:.1f}"] += 1
    return found


def files_in(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def results(folder: str, text: str) -> None:
    Path(folder).mkdir(exist_ok=True)
    Path(folder, "results.json").write_text(text)


GOOD = '[["2", {"success": 3, "failure": 1, "score": 75.0}], ["10", {"success": 1, "failure": 0}]]'


# Radar charts.


def test_radar_chart_as_svg(here: Path, command: Command) -> None:
    words = ["draw_radar_chart", BEFORE, "--data_dir=data", "--output_dir=charts", "--filename=x.svg"]
    assert succeed(command, *words, *HERE) == "created files:\ncharts/results.json\ncharts/x.svg\n"
    assert set(LABEL_NAMES) <= set(texts("charts/x.svg"))
    labels, predicted = predictions("data/test.h5")
    expected = []
    for label in sorted(map(str, set(labels.tolist()))):
        hits = (predicted == labels)[labels == int(label)]
        success, failure = int(hits.sum()), int((~hits).sum())
        score = 100 * success / (success + failure)
        expected.append([label, {"success": success, "failure": failure, "score": score}])
    assert Path("charts/results.json").read_text() == json.dumps(expected, indent=4)
    again = [word.replace("--data_dir", "--test-dir").replace("x.svg", "x.png") for word in words]
    succeed(command, *again, *HERE)
    with Image.open("charts/x.png") as image:
        assert image.size == (1920, 1440)
    succeed(command, "draw-radar-chart", "--model-dir", "model.keras", "--input-dir", "data", *HERE)
    assert sum(entry["success"] for _, entry in json.loads(Path("data/results.json").read_text())) > 300
    assert Path("data/radar.png").is_file()


def test_overlay_of_before_and_after(here: Path, command: Command) -> None:
    """Names come from the image set beside the results; the chart goes to the first folder."""
    shutil.copy("data/test.h5", "before.h5")
    for name, model in (("before", "model.keras"), ("after", "repaired")):
        words = ["draw_radar_chart", f"--model_dir={model}", "--input_dir=data", "--target_data=test"]
        succeed(command, *words, f"--output_dir={name}", *HERE)
    overlay = ["overlay_radar_charts", "--input_dir=before", "--input_dir_overlay=after"]
    assert succeed(command, *overlay) == "created files:\nbefore/radar.png\n"
    with Image.open("before/radar.png") as image:
        assert (image.size, round(image.info["dpi"][0])) == ((1920, 1440), 300)
    before = dict(json.loads(Path("before/results.json").read_text()))
    after = dict(json.loads(Path("after/results.json").read_text()))
    assert before != after
    expected = {f"{entry['score']:.1f} → {after[label]['score']:.1f} %" for label, entry in before.items()}
    dashed = ["overlay-radar-charts", "--input-dir", "before", "--input-dir-overlay", "after", "--output-dir", "new"]
    dashed += ["--filename", "o.svg", "--legend", "Baseline", "--legend-overlay", "Ours & <more>"]
    succeed(command, *dashed)
    shown = texts("new/o.svg")
    assert expected <= set(shown)
    assert {"Baseline", "Ours & <more>", "6"} <= set(shown)
    assert "Shirt" not in shown
    # The toolkit's own place for results is beside the image set.
    shutil.copy("before/results.json", "data/results.json")
    three = ["--input_dir=data", "--input_dir_overlay=after/results.json", "--input_dir_overlay2=before"]
    succeed(command, "overlay_radar_charts", *three, "--output_dir=new", "--filename=3.svg", "--legend_overlay2=third")
    assert {"Shirt", "Inputs (base)", "Inputs (overlay)", "third"} <= set(texts("new/3.svg"))
    succeed(command, *overlay, "--output_dir=new", "--filename=named.svg", "--data_dir=data", "--min_lim=50")
    assert "Shirt" in texts("new/named.svg")
    Path("data/test.h5").unlink()
    Path("data/test.h5").write_bytes(b"damaged, but nobody asked for it")
    succeed(command, "overlay_radar_charts", *three, "--output_dir=new", "--filename=4.svg")
    assert "Shirt" in texts("new/4.svg"), "data/repair.h5 has names as well"
    results("data", GOOD)
    succeed(command, "overlay_radar_charts", *three, "--output_dir=new", "--filename=5.svg")
    assert "Shirt" not in texts("new/5.svg"), "with a label 10 the data are of something else"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD[:40], "other/results.json is no results.json"),
        ('[["2", {"success": 3}]]', "is no results.json"),
        (GOOD.replace("10", "2"), "other/results.json has label 2, which is there twice"),
        (GOOD.replace("10", "-1"), "other/results.json has label -1, which is negative"),
        (GOOD.replace('1, "score"', '-1, "score"'), "is no results.json"),
        (GOOD.replace('"10"', "Infinity"), "is no results.json"),
        ("[" * 100_000, "is no results.json"),
        ("[]", "other/results.json has 0 labels"),
        ('[["2", {"success": 0, "failure": 0}]]', "has a label with 0 rows"),
    ],
    ids=range(9),
)
def test_damaged_results(text: str, says: str, here: Path, refused: Refused) -> None:
    results("good", GOOD)
    results("other", text)
    for one, other in (("good", "other"), ("other", "good")):
        refused("utils", "overlay_radar_charts", f"--input_dir={one}", f"--input_dir_overlay={other}", says=(says,))


def test_overlay_that_cannot_be_drawn(here: Path, refused: Refused) -> None:
    results("good", GOOD)
    overlay = ["utils", "overlay_radar_charts", "--input_dir=good", "--input_dir_overlay=good"]
    refused(*overlay, "--filename=x.jpg", says=("filename is x.jpg, expected a name that ends in .png or .svg",))
    refused(*overlay, "--min_lim=100", says=("radial limits 100 and 100",))
    refused(*overlay, "--output_dir=model.keras", says=("model.keras is a file, expected a folder",))
    refused(*overlay, "--data_dir=data", says=("data/test.h5 has 10 labels, expected one that names label 10",))
    refused(*overlay, "--input_dir_overlay2=none", says=("none/results.json cannot be read",))


def test_radar_chart_of_label_folders(here: Path, command: Command, refused: Refused) -> None:
    """The score of every folder is added to labels.json, which a user may have edited."""
    negative = Path("data/negative")
    entries = json.loads((negative / "labels.json").read_text())
    entries[0][1]["repair_priority"] = 3
    (negative / "labels.json").unlink()
    (negative / "labels.json").write_text(json.dumps(entries))
    words = ["draw_radar_chart_with_subset", "--model_dir=repaired", "--input_dir=data/negative"]
    succeed(command, *words, "--output_dir=charts", "--filename=x.svg", *HERE)
    assert json.loads((negative / "labels.json").read_text()) == entries
    succeed(command, *words, *HERE)
    assert (negative / "radar.png").is_file()
    repaired = load_model(Path("repaired")).model
    for label, entry in entries:
        labels, predicted = predictions(negative / label / "repair.h5", repaired)
        hits = int((labels == predicted).sum())
        entry["score"] = 100 * hits / len(labels)
    assert (negative / "labels.json").read_text() == json.dumps(entries, indent=4)
    assert Path("charts/labels.json").read_text() == json.dumps(entries, indent=4)
    assert LABEL_NAMES[6] in texts("charts/x.svg")
    (negative / "labels.json").unlink()
    refused("utils", *words, *HERE, says=("labels.json cannot be read", "expected [[label"))


# Bubble charts.


def test_bubble_chart(here: Path, command: Command) -> None:
    assert succeed(command, "draw_bubble_chart", BEFORE, "--test_dir=data", *HERE) == (
        "created files:\noutputs/bubble.png\n"
    )
    with Image.open("outputs/bubble.png") as image:
        assert round(image.info["dpi"][0]) == 300
    dashed = ["draw-bubble-chart", "--model-dir", "model.keras", "--output-dir", "charts", "--filename"]
    sets = {"test": ["--test-dir", "data"], "val": ["--test-dir", "data", "--test-data", "val"]}
    for name, words in {**sets, "repair": ["--input_dir=data"]}.items():
        succeed(command, *dashed, f"{name}.svg", *words, *HERE)
        labels, predicted = predictions(f"data/{name}.h5")
        assert percents(f"charts/{name}.svg") == shares(labels, predicted)
        assert {*LABEL_NAMES, "images", "true label", "predicted label"} <= set(texts(f"charts/{name}.svg"))


def test_overlay_of_bubble_charts(here: Path, command: Command) -> None:
    words = ["overlay_bubble_chart", BEFORE, AFTER, "--test_dir=data", "--test_data=val.h5", "--output_dir=charts"]
    succeed(command, *words, *HERE)
    with Image.open("charts/bubble.png") as image:
        assert round(image.info["dpi"][0]) == 600
    labels, before = predictions("data/val.h5")
    _, after = predictions("data/val.h5", "repaired")
    of_shirts = shares(labels, before, 6) + shares(labels, after, 6)
    assert shares(labels, before, 6) != shares(labels, after, 6)
    both = of_shirts + shares(labels, before, 0) + shares(labels, after, 0)
    for text, expected in (("6,6", of_shirts), ("[6, 0]", both)):
        succeed(command, *words, f"--target_label={text}", "--filename=x.svg", *HERE)
        assert percents("charts/x.svg") == expected
    third = [*words, "--model_dir_overlay2=model.keras", "--legend=one", "--legend-overlay2=three", "--filename=x.svg"]
    succeed(command, *third, *HERE)
    assert percents("charts/x.svg") == shares(labels, before) + shares(labels, before) + shares(labels, after)
    legends = ["one", "Inputs (overlay)", "three"]
    assert [text for text in texts("charts/x.svg") if text in legends] == legends


def test_labels_as_they_are_typed(here: Path) -> None:
    """By number or name, as Python writes lists too; a name that is one goes before a number, commas and brackets."""
    images = open_image_set(Path("data/val.h5"))
    for text in ("6", "Shirt", "6,", "[6]", "(6,)", " 'Shirt' "):
        assert labels_of(text, images) == [6]
    for text in ("0,6", "[0, 6]", "T-shirt/top,Shirt", "['T-shirt/top', 6]"):
        assert labels_of(text, images) == [0, 6]
    assert labels_of("None", images) is labels_of("", images) is None
    named = replace(images, label_names=("6", "a,b", "c", "d", "e", "f", "[0,1]", "h", "i", "j"))
    assert [labels_of(text, named) for text in ("6", "a,b", "[0,1]", "8")] == [[0], [1], [6], [8]]


def test_bubble_charts_that_cannot_be_drawn(here: Path, refused: Refused, command: Command) -> None:
    overlay = ["utils", "overlay_bubble_chart", BEFORE, AFTER, "--test_dir=data", *HERE]
    for text in ("10", "-1", "shirt", "Shirt,Hat", "6.0"):
        word = text.split(",")[-1]
        meant = " (did you mean 'Shirt'?)" if text == "shirt" else ""
        refused(*overlay, f"--target_label={text}", says=(f"target_label is {word}{meant}, expected one of T-shirt",))
    refused(*overlay, "--target_label=,", says=("target_label is ,, expected labels with commas",))
    labels, _ = predictions("data/test.h5")
    shutil.copy("data/test.h5", "few.h5")
    rewrite_set(Path("few.h5"), lambda arrays: arrays.update(labels=np.eye(10)[np.where(labels == 3, 6, labels)]))
    few = ["--data-dir", "few.h5", "--target_label=3"]
    refused(*overlay[:4], *few, *HERE, says=("few.h5 has no rows of target_label 3",))
    bubble = ["utils", "draw_bubble_chart", BEFORE, *HERE]
    refused(*bubble, "--test_dir=data", "--filename=x.pdf", says=("filename is x.pdf",))
    refused(*bubble, "--test_dir=data", "--test_data=none", says=("data/none.h5 does not exist",))
    write_empty_image_set(Path("empty.h5"))
    refused(*bubble, "--test_dir=empty.h5", says=("empty.h5 has 0 rows",))
    for words in (bubble, [*bubble, "--test_dir=data", "--input_dir=data"], overlay[:3]):
        done = command(*words)
        assert (done.code, done.out) == (2, "")
        assert "Error: " in done.err


def test_models_that_do_not_fit_together(here: Path, refused: Refused) -> None:
    import keras

    layers = [keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(4, activation="softmax")]
    keras.Sequential(layers).save("small.keras")
    words = ["utils", "overlay_bubble_chart", BEFORE, "--model_dir_overlay=small.keras", "--test_dir=data", *HERE]
    refused(*words, says=("test.h5 labels 10 classes, the model small.keras has 4",))


# What became of negatives.


def test_repaired_result(here: Path, command: Command, refused: Refused) -> None:
    """Every row of the tree is counted once, in the chart and in the table."""
    rows = []
    repaired = load_model(Path("repaired")).model
    for path in sorted(Path("data/negative").glob("*/*/repair.h5")):
        before = int(path.parent.name)
        rows += [(int(label), before, int(now)) for label, now in zip(*predictions(path, repaired), strict=True)]
    words = ["draw_repaired_result", "--model_dir=repaired", "--target_dir=data/negative"]
    out = succeed(command, *words, "--output_dir=charts", "--filename=x.svg", *HERE)
    table, files = out.split("created files:\n")
    assert files == "charts/x.svg\n"

    def counts(mine: list[tuple[int, int, int]]) -> list[int]:
        right = sum(now == label for label, _, now in mine)
        same = sum(now == before for _, before, now in mine)
        return [len(mine), right, same, len(mine) - right - same]

    expected = [
        f"{label} {LABEL_NAMES[label]} {counts([row for row in rows if row[0] == label])}"
        for label in sorted({row[0] for row in rows})
    ]
    found = [re.sub(r" +", " ", line).rsplit(" ", 4) for line in table.splitlines()[2:]]
    assert [f"{name} {[int(number) for number in numbers]}" for name, *numbers in found] == [
        *expected, f"all {counts(rows)}"
    ]  # fmt: skip
    assert counts(rows)[1] > 0
    shown = texts("charts/x.svg")
    assert f"right now ({counts(rows)[1]} of {len(rows)})" in shown
    assert f"Shirt ({counts([r for r in rows if r[0] == 6])[1]}/{sum(r[0] == 6 for r in rows)})" in shown

    succeed(command, "draw-repaired-result", "--model-dir", "repaired", "--target-dir", "data/negative/6", *HERE)
    assert Path("data/negative/6/repaired.png").is_file()
    out = succeed(command, *words[:2], "--target_dir=data/positive", "--target_data=repair", *HERE)
    assert "wrong now" in out
    refused("utils", *words[:2], "--target_dir=data", *HERE, says=("data has no rows in label folders, expected",))
    refused("utils", *words[:2], "--target_dir=data/negative", "--filename=x", *HERE, says=("filename is x,",))


@pytest.mark.slow
def test_repaired_result_on_workers(here: Path, command: Command) -> None:
    words = ["utils", "draw_repaired_result", "--model_dir=repaired", "--target_dir=data/negative/6", "--output_dir"]
    tables = [
        command(*words, name, "--num_workers", count, *more, "--verbose=0").out.split("created")[0]
        for name, count, more in (("one", 0, ()), ("two", 2, ("--spread_rows",)))
    ]
    assert tables[0] == tables[1] != ""
    assert Path("one/repaired.png").read_bytes() == Path("two/repaired.png").read_bytes()


# Files out of image sets.


def test_merge(here: Path, command: Command, refused: Refused) -> None:
    words = ["merge_repair_data", "--input_dir1=data/negative/6", "--input_dir2=data/negative/4"]
    parts = []
    for label in (6, 4):
        with h5py.File(f"data/negative/{label}/repair.h5") as file:
            parts.append({name: file[name][...] for name in ("images", "labels")})
    count = sum(len(part["images"]) for part in parts)
    assert (
        succeed(command, *words, "--output_dir=new/merged") == f"{count} rows\ncreated files:\nnew/merged/repair.h5\n"
    )
    with h5py.File("new/merged/repair.h5") as file:
        for name in ("images", "labels"):
            assert file[name].dtype == np.float32
            assert np.array_equal(file[name][...], np.concatenate([part[name] for part in parts]))
    assert open_image_set(Path("new/merged/repair.h5")).label_names == LABEL_NAMES
    dashed = ["merge-repair-data", "--input-dir1", "data/negative/6", "--input-dir2", "data/negative/4/repair.h5"]
    succeed(command, *dashed, "--output-dir", "new/merged")
    for output in ("data", "data/negative/6", "."):
        refused("utils", *words, f"--output_dir={output}", "--overwrite", says=("would be replaced and holds",))
    Path("new/merged/notes.txt").touch()
    refused("utils", *words, "--output_dir=new/merged", says=("holds notes.txt", "--overwrite"))
    refused("utils", *words[:2], "--input_dir2=none", "--output_dir=x", says=("none/repair.h5 does not exist",))
    succeed(command, *words, "--output_dir=new/merged", "--overwrite=True")
    assert files_in("new/merged") == ["repair.h5"]


def test_extract(here: Path, command: Command, refused: Refused) -> None:
    images, _ = read_set("data/negative/6/repair.h5")
    words = ["extract_images", "--input_dir=data/negative/6"]
    assert succeed(command, *words) == f"{len(images)} pictures in {here}/data/negative/6/images\n"
    files = sorted(Path("data/negative/6/images").iterdir())
    assert [path.name for path in files] == [f"{row:08d}.ppm" for row in range(len(images))]
    for path, image in zip(files, images, strict=True):
        assert path.read_bytes() == b"P6\n32 32\n255\n" + np.rint(255 * image.astype(float)).astype(np.uint8).tobytes()
    succeed(
        command, "extract-images", "--input-dir", "data", "--target-data", "val", "--output-dir", "new", "--format=png"
    )
    with Image.open("new/images/00000119.png") as image, h5py.File("data/val.h5") as file:
        assert np.array_equal(np.asarray(image), np.rint(255 * file["images"][119].astype(float)))
    assert len(files_in("new/images")) == 120
    Path("new/images/mine.txt").touch()
    refused("utils", *words, "--output_dir=new", says=("holds mine.txt",))
    Path("images").mkdir()
    os.link("data/val.h5", "images/repair.h5")
    refused("utils", "extract_images", "--input_dir=images", "--output_dir=.", "--overwrite", says=("holds",))
    assert command("utils", *words, "--format=jpg").code == 2


def test_classes_of_other_models(here: Path, command: Command, refused: Refused) -> None:
    Path("data/val.h5").rename("data/train.h5")
    images, labels = read_set("data/train.h5")
    out = succeed(command, "create_vit_class", "--data_dir=data")
    assert out.endswith("data/vision_transformer/train.h5\n")
    with h5py.File("data/vision_transformer/train.h5") as file:
        assert (file["labels"].dtype, file["labels"][...].tolist()) == (np.int64, labels.tolist())
        assert np.array_equal(file["images"][...], images)
    Path("groups.json").write_text("[[0, 2, 4, 6], [1, 3], [5, 7, 8]]")
    words = ["create-gate-class", "--data-dir", "data", "--hydra-setting-file", "groups.json"]
    succeed(command, *words)
    assert files_in("data/gate") == ["repair.h5", "test.h5", "train.h5"]
    with h5py.File("data/gate/train.h5") as file:
        groups = file["labels"][...]
        assert groups.dtype == np.float64
        assert np.array_equal(file["images"][...], images)
    member = [0, 1, 0, 1, 0, 2, 0, 2, 2, None]  # 9 is in none
    assert groups.tolist() == [[float(member[label] == group) for group in range(3)] for label in labels.tolist()]
    before = contents(here)
    Path("groups.json").write_text("[[0, 2], [2]]")
    refused("utils", *words, says=("groups.json names class 2 twice",))
    refused("utils", "create_gate_class", "--data_dir=run", "--hydra_setting_file=data", says=("data cannot be read",))
    Path("groups.json").write_text("[[0, 2]]")
    refused("utils", *words[:2], "data/gate/..", *words[3:4], "none.json", says=("none.json cannot be read",))
    refused("utils", *words[:2], "repaired", *words[3:], says=("repaired has no image set, expected train.h5",))
    Path("data/train.h5").unlink()
    refused("utils", "create_vit_class", "--data_dir=data", says=("data/train.h5 does not exist",))
    assert {path for path in contents(here) if "gate" in path} == {path for path in before if "gate" in path}
