"""The tutorial's command lines from scenes to image sets, and the other data sets, as a person types them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from engine.data.image_set import open_image_set
from engine.datasets.bdd import LABEL_NAMES
from tests.engine.datasets.test_cifar import batches, tar
from tests.engine.datasets.test_gtsrb import unpacked
from tests.integration.conftest import SHIPPED, Command, Refused, ok, stop
from tests.support.prepare import files
from tests.support.scenes import COMMON, Scenes, draw_scenes, label

EXCLUDED = "other vehicle,other person,trailer,train,bicycle,motorcycle,bus,rider"
NOT_PEDESTRIANS = f"car,truck,traffic light,traffic sign,{EXCLUDED}"
HERE = ["--num_workers=0", "--verbose=0"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`datasets/bdd100k` as it is downloaded, with val and train."""
    root = tmp_path_factory.mktemp("drawn")
    frequencies = COMMON | {"bus": 1, "rider": 1}
    for split, scenes in (("val", 14), ("train", 10)):
        draw_scenes(root / "datasets/bdd100k", split, scenes, width=320, height=180, frequencies=frequencies)
    return root


@pytest.fixture
def downloads(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(drawn, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def counts(labels: str) -> dict[str, int]:
    frames = json.loads(Path(labels).read_text())
    names = [annotation["category"] for frame in frames for annotation in frame["labels"]]
    return {name: names.count(name) for name in sorted(set(names))}


def table_of(rows: dict[str, int]) -> list[str]:
    head = ["|               label|   num|", "|--------------------|------|"]
    return head + [f"|{name:>20}|{count:>6}|" for name, count in [*rows.items(), ("total", sum(rows.values()))]]


def run_all(command: Command, lines: Sequence[Sequence[str]]) -> list[str]:
    outputs = []
    for line in lines:
        done = ok(command(*line))
        outputs.append(done.out)
    return outputs


def words_of(text: str, **names: str) -> list[list[str]]:
    lines = text.format(**names).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line]


TUTORIAL = f"""
create_category_dir --input_dir=datasets/bdd100k/images/val --output_dir=docs/tutorial/categories/val \
    --label_file=datasets/bdd100k/labels/det_20/det_val.json --num_workers=0 --verbose=0
create_image_dir --category_dir=docs/tutorial/categories/val --output_dir=docs/tutorial/data/images/val \
    --num=70000 --excluded_labels='{EXCLUDED}' --num_workers=0 --verbose=0
prepare bdd-objects --input_dir=docs/tutorial/data/images/val --output_dir=docs/tutorial/data \
    --single_dir=True --data_ratio=0.5,0.2,0.3,0 --random_state=3 --num_workers=0 --verbose=0
create_category_dir --image_dir=datasets/bdd100k/images/train --output_dir=docs/tutorial/categories/train \
    --label_file=datasets/bdd100k/labels/det_20/det_train.json --num_workers=0 --verbose=0
create_image_subset --category_dir=docs/tutorial/categories/train --output_dir=docs/tutorial/data/images/train \
    --num=13000000 --excluded_labels='{NOT_PEDESTRIANS}' --num_workers=0 --verbose=0
prepare --dataset=bdd-objects --input_dir=docs/tutorial/data/images/train --output_dir=docs/tutorial/data \
    --single_dir=True --data_ratio=0,0,0,1 --random_state=3 --num_workers=0 --verbose=0
"""


def test_the_tutorial_s_lines(downloads: Path, command: Command) -> None:
    """With two of its committed corrections: images/train for the second call, and a random state for the last."""
    base = "datasets/bdd100k"
    out = run_all(command, words_of(TUTORIAL))
    val = counts(f"{base}/labels/det_20/det_val.json")
    train = counts(f"{base}/labels/det_20/det_train.json")
    kept = {name: count for name, count in val.items() if name not in EXCLUDED.split(",")}
    assert out[0].splitlines()[-1].split() == ["all", "112", "0"]
    assert out[1].splitlines() == table_of(kept)
    assert out[4].splitlines() == table_of({"pedestrian": train["pedestrian"]})
    total = sum(kept.values())
    a, b = int(total * 0.5), int(total * 0.2 + int(total * 0.5))
    rows = {"train": a, "val": b - a, "test": int(total * 0.3 + b) - b}
    shapes = {"images": "{}, 32, 32, 3", "labels": "{}, 13", "image_ids": "{},", "attribute_ids": "{},"}
    assert out[2].splitlines() == [
        f"{part}_{name}: ({shape.format(count)})" for part, count in rows.items() for name, shape in shapes.items()
    ]
    assert out[5].splitlines()[0] == f"repair_images: ({train['pedestrian']}, 32, 32, 3)"
    data = Path("docs/tutorial/data")
    assert sorted(path.name for path in data.iterdir()) == ["images", "repair.h5", "test.h5", "train.h5", "val.h5"]
    assert set(open_image_set(data / "repair.h5").labels) == {6}
    for part, count in (rows | {"repair": train["pedestrian"]}).items():
        found = open_image_set(data / f"{part}.h5")
        assert (found.rows, found.image_shape, found.label_names) == (count, (32, 32, 3), LABEL_NAMES)
    # What follows in the tutorial: its sample script is `split`, and no name gets lost on the way.
    run_all(command, [["split", "docs/tutorial/data/repair.h5", "--chunk-size", "5"]])
    chunks = sorted((data / "repairsets").iterdir())
    assert [chunk.name for chunk in chunks] == [str(number) for number in range(min(10, -(-train["pedestrian"] // 5)))]
    assert all(open_image_set(chunk / "repair.h5").label_names == LABEL_NAMES for chunk in chunks)


EVERY_OPTION = """
create_category_dir --image_dir {images} --label_file {labels} --output_dir a/categories --min_area=200 \
    --remove_truncated=True --remove_occluded=False --clamp_crops=True --overwrite=False --num_workers=0 --verbose=0
create_image_subset --category_dir=a/categories --output_dir=a/images --num=60 --category_min=3 --random_state=5 \
    --resize_to=48 --excluded_labels=bus,rider --overwrite=False --num_workers=0 --verbose=0
create_image_dir --category_dir=a/categories --output_dir=a/again --num=1 \
    --info_file=a/images/image_info.json --num_workers=0
prepare bdd_objects --input_dir=a/again --output_dir=a/data --single_dir=True --data_ratio=0.5,0.5,0,0 \
    --random_state=1 --preprocess=resize --overwrite=False --num_workers=0
"""


def test_every_option(downloads: Path, command: Command) -> None:
    labels, images = "datasets/bdd100k/labels/det_20/det_val.json", "datasets/bdd100k/images/val"
    run_all(command, words_of(EVERY_OPTION, labels=labels, images=images))
    one = files(downloads / "a")
    assert any("/removed/" in name for name in one)
    frames = {frame["name"]: frame for frame in json.loads(Path(labels).read_text())}
    for name in one:
        if "/removed/" in name:
            number, _, frame = Path(name).name.partition("_")
            truncated = next(x["attributes"]["truncated"] for x in frames[frame]["labels"] if x["id"] == number)
            with Image.open(downloads / "a" / name) as picture:
                assert truncated or np.prod(picture.size) < 200
    assert files(downloads / "a/images") == files(downloads / "a/again")
    with Image.open(next((downloads / "a/images").glob("*.jpg"))) as picture:
        assert picture.size == (48, 48)


def test_what_is_skipped_is_reported(downloads: Path, command: Command) -> None:
    scenes = Scenes(Path("datasets/bdd100k/images/val"), Path("datasets/bdd100k/labels/det_20/det_val.json"))
    frames = scenes.frames()
    frames[0]["labels"] = [
        label(1, "car", 400, 10, 420, 20),
        label(2, "car", 10, 10, 10, 30),
        label(3, "car", 0, 0, 9, 9),
    ]
    (scenes.images / frames[1]["name"]).unlink()
    del frames[2]["labels"]
    scenes.write(frames)
    words = ["create_category_dir", f"--label_file={scenes.labels}", f"--input_dir={scenes.images}", *HERE]
    done = ok(command(*words))
    assert done.out.splitlines()[-5:] == [
        "skipped boxes: 8 (image missing)",
        "skipped boxes: 1 (no area)",
        "skipped boxes: 1 (outside the image)",
        "frames without image: 1 of 14",
        "frames without labels: 1 of 14",
    ]
    assert Path("categories/car/3_" + frames[0]["name"]).is_file()
    (scenes.images / frames[3]["name"]).write_bytes(b"\xff\xd8torn")
    done = command(*words, "--output_dir=other")
    assert done.code == 2
    assert re.fullmatch(
        r"error: .*cannot be decoded.*expected an undamaged picture\n|error: .* is no picture.*\n", done.err
    )


CATEGORIES = ["create_category_dir", "--label_file=datasets/bdd100k/labels/det_20/det_val.json"]
CATEGORIES += ["--input_dir=datasets/bdd100k/images/val", *HERE]


def test_a_name_that_excludes_nothing_is_said(downloads: Path, command: Command) -> None:
    run_all(command, [CATEGORIES])
    done = ok(command("create_image_subset", "--category_dir=categories", "--excluded_labels=tain,car", *HERE))
    assert done.err == "warning: no image has the excluded label 'tain'\n"


def test_a_subset_as_the_toolkit_draws_it_is_drawn_again(downloads: Path, command: Command) -> None:
    """From its image_info.json alone; values without flags are in the toolkit's order, and None is none."""
    run_all(command, [CATEGORIES])
    listed = Path("categories/image_info.json")
    listed.write_text(json.dumps(json.loads(listed.read_text())[::-1]))  # as a toolkit's folder may be listed
    by_name = ["--num=40", "--excluded_labels=bus,rider", "--category_min=2", "--random_state=5", "--resize_to=24"]
    words = ["create_image_subset", "categories"]
    lines = [
        [*words, "like", *by_name, "--like_toolkit"],
        [*words, "again", "like/image_info.json"],
        [*words, "ours", *by_name],
        [*words, "placed", "None", "40", "bus,rider", "2", "5", "24"],
        [*words, "added", "ours/image_info.json", "--like_toolkit"],
        [*words, "whole", "None", "40", "None", "2", "5", "None"],
        [*words, "same", "--num=40", "--category_min=2", "--random_state=5"],
    ]
    run_all(command, [[*line, *HERE] for line in lines])
    found = {line[2]: files(downloads / line[2]) for line in lines}
    assert found["again"] == found["like"] == found["added"]
    assert found["placed"] == found["ours"] != found["like"]
    assert found["whole"] == found["same"]


def test_bad_scenes_and_subsets(downloads: Path, command: Command, refused: Refused) -> None:
    """What is wrong with files and settings is told beside the functions; here that commands pass it on."""
    labels = Path("datasets/bdd100k/labels/det_20/det_val.json")
    whole = labels.read_text()
    labels.write_text(whole[:-100])
    refused(*CATEGORIES, "--output_dir=a/b", says=("det_val.json is broken at character", "expected a JSON array"))
    labels.write_text(whole)
    first = Path("datasets/bdd100k/images/val") / json.loads(whole)[0]["name"]
    content = first.read_bytes()
    first.write_bytes(content[:-900])
    refused(*CATEGORIES, "--output_dir=a/b", says=(f"{first.name} cannot be decoded", "expected an undamaged picture"))
    first.write_bytes(content)
    run_all(command, [CATEGORIES, ["create_image_subset", "--category_dir=categories", "--output_dir=images", *HERE]])
    subset = ["create_image_subset", "--category_dir=categories", *HERE]
    refused(*subset, "--output_dir=categories", says=("categories would replace categories",))
    refused(*subset, "--num=-5", says=("num is -5",))
    prepare = ["prepare", "bdd-objects", "--input_dir=images", "--output_dir=a/data", "--single_dir", *HERE]
    refused(*prepare, "--data_ratio=0.5,0.2,0.3,0.1", says=("sums to 1.1", "expected a sum of 1"))
    refused(*prepare, "--num-workers=-1", says=("num_workers is -1",))
    Path("images/image_info.json").write_text(json.dumps({"args": {}}))
    refused(*prepare, says=('has no "args" and "images"',))


def test_other_data(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    unpacked(tmp_path / "gtsrb")
    tar(tmp_path / "cifar-10-python.tar.gz", batches())
    for name in ("cats", "dogs"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (20, 30), (number, 0, 50)).save(tmp_path / "mine" / name / f"{number}.png")
    out = run_all(
        command,
        [
            ["prepare", "gtsrb", "--input_dir=gtsrb", "--output_dir=a", "--divide_rate=0.25", *HERE],
            ["prepare", "--dataset=cifar-10", "--input_dir=.", "--output_dir=b", "--data_ratio=0.5,0.1,0.2,0.2", *HERE],
            ["prepare", "image-folder", "--input-dir", "mine", "--output-dir", "c", "--side", "48", *HERE],
            ["prepare", "cifar_10", "--input_dir=cifar-10-python.tar.gz", "--preprocess=resize", *HERE],
        ],
    )
    assert out[0].splitlines()[::2] == [
        f"{part}_images: ({rows}, 32, 32, 3)" for part, rows in (("train", 15), ("repair", 5), ("test", 4))
    ]
    assert out[1].splitlines()[:2] == ["train_images: (38, 32, 32, 3)", "train_labels: (38, 10)"]
    assert out[2].splitlines()[:3] == ["train_images: (5, 48, 48, 3)", "train_labels: (5, 2)", "train_image_ids: (5,)"]
    assert open_image_set(tmp_path / "a/train.h5").label_names[14] == "Stop"  # type: ignore[index]
    assert open_image_set(tmp_path / "b/test.h5").label_names[3] == "cat"  # type: ignore[index]
    assert open_image_set(tmp_path / "c/repair.h5").label_names == ("cats", "dogs")
    assert open_image_set(tmp_path / "outputs/train.h5").preprocess == "resize"


def test_bad_other_data(tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "GTSRB_Final_Training_Images.zip").write_bytes(b"<html>")
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"<html>")
    (tmp_path / "mine" / "cats").mkdir(parents=True)
    (tmp_path / "mine" / "dogs").mkdir(parents=True)
    Image.new("RGB", (20, 30)).save(tmp_path / "mine" / "cats" / "1.png")
    end = ["--output_dir=a/b", *HERE]
    refused("prepare", "gtsrb", "--input_dir=.", *end, says=("GTSRB_Final_Training_Images.zip is no zip archive",))
    refused("prepare", "cifar-10", "--input_dir=.", *end, says=("cifar-10-python.tar.gz cannot be read",))
    refused("prepare", "image-folder", "--input_dir=mine", *end, says=("mine/dogs has no picture",))


def test_fashion_mnist_goes_on_where_it_was_killed(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["prepare", "fashion-mnist", f"--input-dir={SHIPPED}", "--preprocess=toolkit", "--random-state=5", *HERE]
    journal = Path("out/.prepare.unfinished/journal.jsonl")

    def made() -> int:
        return len(journal.read_bytes().splitlines()) if journal.exists() else 0

    done = stop([*words, "--output-dir=out"], signal.SIGKILL, lambda: made() >= 4)
    assert done.returncode == -signal.SIGKILL
    assert {path.name for path in Path("out").iterdir()} == {".prepare.unfinished", ".prepare.lock"}
    assert 4 <= made() < 40
    written = run_all(command, [[*words, "--output-dir=out"], [*words, "--output-dir=whole"]])
    assert written[0] == written[1]
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert sorted(files(tmp_path / "out")) == ["repair.h5", "test.h5", "train.h5", "val.h5"]


def test_weathers_and_tables(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every drawn frame is clear and of a city street; one has no label, one no weather."""
    monkeypatch.chdir(tmp_path)
    base = Path("bdd100k")
    for split, scenes in (("val", 14), ("train", 10)):
        draw_scenes(base, split, scenes, width=160, height=90, objects=1)
    frames = json.loads((base / "labels/det_20/det_val.json").read_text())
    frames[1]["attributes"]["weather"] = "undefined"
    (base / "labels/det_20/det_val.json").write_text(json.dumps(frames[1:]))
    words = ["prepare", "--dataset=bdd", f"--input_dir={base}", "--output_dir=out", "--divide_rate=0.2", *HERE]
    shapes = "".join(
        f"{part}_images: ({rows}, 90, 160, 3)\n{part}_labels: ({rows}, 6)\n{part}_image_ids: ({rows},)\n"
        for part, rows in (("train", 14), ("repair", 3), ("test", 5))
    )
    left = "frames left out: 1 of 24 (not in the label file)\nframes left out: 1 of 24 (weather unknown or undefined)\n"
    assert command(*words).out == shapes + left
    with h5py.File("out/train.h5") as file:
        assert file["labels"][:].argmax(axis=1).tolist() == [2] * 14
    scene = command(*words, "--target-label=scene").out
    assert "train_labels: (15, 6)" in scene
    with h5py.File("out/train.h5") as file:
        assert file["labels"][:].argmax(axis=1).tolist() == [4] * 15
    Path("exp2/images").mkdir(parents=True)
    Image.new("RGB", (40, 30), (9, 99, 199)).save("exp2/images/1_a.png")
    Path("exp2/labels.csv").write_text("#filename,class_id\n1_a.png,car\n")
    objects = command("prepare", "bdd-objects", "--input_dir=exp2", "--output_dir=sizes", *HERE).out
    assert objects.startswith("32/exp2_images: (1, 32, 32, 3)\n32/exp2_labels: (1, 13)\n")
    assert "224/exp2_images: (1, 224, 224, 3)" in objects
    assert {str(path) for path in Path("sizes").rglob("*.h5")} == {f"sizes/{side}/exp2.h5" for side in (32, 96, 224)}
