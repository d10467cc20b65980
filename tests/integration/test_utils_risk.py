"""`utils risk_calculation_tool` on a prepared set of drawn objects, with counts made by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from PIL import Image

from cli.main import run
from engine.datasets.bdd import LABEL_NAMES
from tests.integration.conftest import Command, Refused, ok

HERE = ["--num_workers=0", "--verbose=0"]
FRAMES = {"a.jpg": ("rainy", "night"), "b.jpg": ("rainy", "daytime"), "c.jpg": ("clear", "night")}
"""Weather and time of day of every frame; each has a car, a bus and a rider."""

OBJECTS = {"car": 200, "bus": 120, "rider": 30}
"""How bright the pictures of each label are."""


def classifier() -> keras.Model:
    """Takes what is bright for a car and all else for a rider, so that every bus is mistaken for one."""
    inputs = keras.Input((32, 32, 3))
    layer = keras.layers.Dense(13, activation="softmax")
    model = keras.Model(inputs, layer(keras.layers.GlobalAveragePooling2D()(inputs)))
    kernel, bias = np.zeros((3, 13), np.float32), np.full(13, -50, np.float32)
    kernel[:, LABEL_NAMES.index("car")] = 100
    bias[LABEL_NAMES.index("car")], bias[LABEL_NAMES.index("rider")] = -200, 0
    layer.set_weights([kernel, bias])
    model.compile(loss="categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.fixture(scope="session")
def risky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`labels/`, `images/train` and `images/val`, `data/` prepared from them, and `model.keras`."""
    root = tmp_path_factory.mktemp("risky")
    (root / "labels").mkdir()
    for part, frames in (("train", ("a.jpg", "b.jpg")), ("val", ("c.jpg",))):
        folder = root / "images" / part
        folder.mkdir(parents=True)
        entries, table = [], []
        for frame in frames:
            for label, brightness in OBJECTS.items():
                name = f"{len(entries)}-{label}_{frame}"
                Image.new("RGB", (20, 20), (brightness,) * 3).save(folder / name)
                entries.append({"name": name, "label": label})
            weather, time = FRAMES[frame]
            table.append({"name": frame, "attributes": {"weather": weather, "timeofday": time}})
        (folder / "image_info.json").write_text(json.dumps({"args": {}, "images": entries}))
        (root / "labels" / f"det_{part}.json").write_text(json.dumps(table))
    words = ["prepare", "bdd-objects", f"--input-dir={root / 'images'}", f"--output-dir={root / 'data'}"]
    assert run([*words, "--data-ratio=0,0,0.5,0.5", "--preprocess=resize", *HERE]) == 0
    classifier().save(root / "model.keras")
    return root


@pytest.fixture
def here(risky: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "work"
    shutil.copytree(risky, root)
    monkeypatch.chdir(root)
    return root


def words(target: str, *more: str) -> list[str]:
    return [
        *("utils", "risk_calculation_tool", f"--calc_target={target}", "--h5_dataset_path=data"),
        *("--create_image_subset_output_path=images", "--output_dir=out", *more, *HERE),
    ]


def names(folder: str) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


def test_scenes(here: Path, command: Command) -> None:
    done = command(
        *words("scene_prob", "--scalabel_format_label_path=labels", "--label=bus", "--attributes=weather=rainy")
    )
    assert (done.code, done.err) == (0, "")
    query = {"label": "1", "weather": "rainy"}
    summary = {"total_image_count": 9, "image_count_matched_to_query": 2, "existence_rate": 2 / 9}
    response = {"query": query, "scene_prob": {"summary": summary}}
    assert Path("out/results.json").read_text() == json.dumps({"response": response})
    head = f"[Query]\n{json.dumps(query, indent=4)}\n[Summary of scene prob]\n{json.dumps(summary, indent=4)}\n"
    assert done.out == f"{head}created files:\nout/results.json\nout/matched_data\n"
    assert names("out/matched_data") == {"1-bus_a.jpg", "4-bus_b.jpg"}
    assert Path("out/matched_data/4-bus_b.jpg").read_bytes() == Path("images/train/4-bus_b.jpg").read_bytes()
    both = "--attributes=weather=rainy,timeofday=night"
    ok(command(*words("scene_prob", "--scalabel_format_label_path=labels", both, "--format_json=True")))
    text = Path("out/results.json").read_text()
    assert json.loads(text)["response"]["scene_prob"]["summary"]["image_count_matched_to_query"] == 3
    assert text == json.dumps(json.loads(text), indent=4)
    assert names("out/matched_data") == {"0-car_a.jpg", "1-bus_a.jpg", "2-rider_a.jpg"}
    assert command(*words("scene_prob")).code == 0  # asked for nothing, all match
    assert json.loads(Path("out/results.json").read_text())["response"]["query"] == {}
    assert len(names("out/matched_data")) == 9


def test_copies_beside_the_pictures_are_none_of_them(here: Path, command: Command) -> None:
    """So that the command can be given again; and pictures that were copied may be asked about themselves."""
    line = words("scene_prob_and_miss_rate", "--model_dir=model.keras", "--output_dir=images")
    for _ in range(2):
        done = command(*line)
        assert (done.code, done.err) == (0, "")
        assert len(names("images/matched_data")) == 9
        assert len(names("images/misrecognision_data/1/7")) == 3
    copies = "--create_image_subset_output_path=images/matched_data"
    ok(command(*words("scene_prob", copies)))
    assert names("out/matched_data") == names("images/matched_data")


def test_help_has_the_names_of_the_toolkit(command: Command) -> None:
    done = command("utils", "risk_calculation_tool", "--help")
    assert "[scene_prob|miss_rate|scene_prob_and_miss_rate]" in "".join(done.out.split())


def test_mistakes(here: Path, command: Command) -> None:
    ok(command(*words("miss_rate", "--model_dir=model.keras")))
    response = json.loads(Path("out/results.json").read_text())["response"]
    assert list(response) == ["miss_rate"]
    summary, matrix = response["miss_rate"]["summary"], np.array(response["miss_rate"]["confusion_matrix"])
    assert list(summary) == [str(label) for label in range(13)]
    assert summary["1"] == {"total_image_count": 3, "misrecognized_image_count": 3, "misrecognized_rate": 1.0}
    assert summary["2"] == {"total_image_count": 3, "misrecognized_image_count": 0, "misrecognized_rate": 0.0}
    assert summary["0"] == {"total_image_count": 0, "misrecognized_image_count": 0, "misrecognized_rate": 0}
    expected = np.zeros((13, 13), int)
    expected[1, 7] = expected[2, 2] = expected[7, 7] = 3
    assert np.array_equal(matrix, expected)
    assert names("out/misrecognision_data") == {"1/7/1-bus_a.jpg", "1/7/4-bus_b.jpg", "1/7/1-bus_c.jpg"}
    assert not Path("out/matched_data").exists()


def test_mistakes_in_a_scene(here: Path, command: Command) -> None:
    """Of buses of one set by night: only these rows are counted, and only they can be mistaken."""
    with h5py.File("data/test.h5") as file:
        ids = [name.decode() for name in file["image_ids"]]
    wanted = {name for name in ids if "bus" in name and not name.endswith("b.jpg")}
    more = ["--model_dir=model.keras", "--scalabel_format_label_path=labels", "--attributes=timeofday=night"]
    ok(command(*words("scene_prob_and_miss_rate", *more, "--label=1", "--h5_dataset_path=data/test.h5")))
    response = json.loads(Path("out/results.json").read_text())["response"]
    assert list(response) == ["query", "scene_prob", "miss_rate"]
    found = response["scene_prob"]["summary"]
    assert (found["total_image_count"], found["image_count_matched_to_query"]) == (len(ids), len(wanted))
    expected = np.zeros((13, 13), int)
    expected[1, 7] = len(wanted)
    assert np.array_equal(response["miss_rate"]["confusion_matrix"], expected)
    assert names("out/misrecognision_data") == {f"1/7/{name}" for name in wanted}
    assert names("out/matched_data") == wanted
    assert 0 < len(wanted) < len(ids)


def test_what_cannot_be_calculated(here: Path, refused: Refused) -> None:
    labels = "--scalabel_format_label_path=labels"
    refused(*words("scene_prob", "--label=cart"), says=("label is cart (did you mean 'car'?)",))
    refused(*words("scene_prob", "--label=13"), says=("label is 13", "an index from 0 to 12"))
    says = ("labels has no frame whose weather is rany (did you mean 'rainy'?), expected one of clear, rainy",)
    refused(*words("scene_prob", labels, "--attributes=weather=rany"), says=says)
    refused(*words("scene_prob", labels, "--attributes=wether=rainy"), says=("no frame with an attribute wether",))
    refused(*words("scene_prob", labels, "--attributes=weather"), says=("expected NAME=VALUE",))
    refused(*words("scene_prob", "--attributes=weather=rainy"), says=("expected --scalabel-format-label-path",))
    says = ("labels/det_val.json has no frame ", "expected it, as ")
    refused(*words("scene_prob", f"{labels}/det_val.json", "--attributes=weather=clear"), says=says)
    refused(*words("miss_rate"), says=("needs a model", "expected --model-dir"))
    refused(*words("miss_rate", "--model_dir=model.keras", "--label=car"), says=("scene_prob_and_miss_rate",))
    refused(*words("scene_prob", "--h5_dataset_path=labels"), says=("labels has no .h5 file",))
    refused(*words("scene_prob", "--create_image_subset_output_path=nowhere"), says=("nowhere: no such folder",))
    refused(*words("scene_prob", "--create_image_subset_output_path=labels"), says=("labels has no ", "picture"))
    Path("out/matched_data").mkdir(parents=True)
    Path("out/matched_data/notes.txt").write_text("mine")
    refused(*words("scene_prob"), says=("out/matched_data/notes.txt would be replaced", "--overwrite"))
    with h5py.File("data/test.h5", "a") as file:
        del file["image_ids"]
    refused(*words("scene_prob", "--overwrite"), says=('test.h5 has no dataset "image_ids" with a text for each row',))
