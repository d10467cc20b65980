from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engine.core.errors import InputError
from engine.data.pictures import decode_picture, encode_picture, resize_bilinear
from engine.datasets.category_dir import create_category_dir
from engine.datasets.subset import SubsetSettings, create_image_subset, draw, table
from tests.support.prepare import StoppedError, Stopping, files, refusing
from tests.support.scenes import draw_scenes


def entries(**counts: int) -> list[dict[str, Any]]:
    return [
        {"name": f"{number}_{label}.jpg", "label": label, "value_mean": 1.0, "area": 4}
        for label, count in counts.items()
        for number in range(count)
    ]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # int(n / 100 · num) + 1, at most n
        (SubsetSettings(10), {"car": 7, "bus": 4, "truck": 2}),
        (SubsetSettings(10, category_min=5), {"car": 7, "bus": 5, "truck": 5}),
        (SubsetSettings(10, category_min=50), {"car": 60, "bus": 30, "truck": 10} | {"car": 50}),
        (SubsetSettings(10, excluded_labels=("car",)), {"bus": 4, "truck": 2}),  # of all 100 all the same
        (SubsetSettings(70_000), {"car": 60, "bus": 30, "truck": 10}),
        (SubsetSettings(0), {"car": 60, "bus": 30, "truck": 10}),  # 0 stands for 5,000
        (SubsetSettings(1), {"car": 1, "bus": 1, "truck": 1}),
    ],
)
def test_numbers_by_hand(settings: SubsetSettings, expected: dict[str, int]) -> None:
    drawn = draw(entries(car=60, bus=30, truck=10), settings)
    assert {label: len(chosen) for label, chosen in drawn.items()} == expected
    assert list(drawn) == [label for label in ("car", "bus", "truck") if label in expected]


@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=5), num=st.integers(1, 150), seed=st.integers(0, 9))
def test_proportions_are_kept_within_one_image(counts: list[int], num: int, seed: int) -> None:
    given_entries = entries(**{f"c{k}": count for k, count in enumerate(counts)})
    drawn = draw(given_entries, SubsetSettings(num, random_state=seed))
    for label, chosen in drawn.items():
        count = counts[int(label[1:])]
        wanted = min(count / sum(counts) * num, count)
        assert wanted - 1e-9 <= len(chosen) <= wanted + 1
        assert len({entry["name"] for entry in chosen}) == len(chosen)
        assert all(entry["label"] == label for entry in chosen)


def test_the_choice_is_python_s_sample_of_sorted_names() -> None:
    listed = entries(car=20, bus=20)
    shuffled = random.Random(5).sample(listed, 40)
    for given_entries in (listed, shuffled):
        drawn = draw(given_entries, SubsetSettings(20, random_state=3))
        for label in ("car", "bus"):
            names = sorted(f"{number}_{label}.jpg" for number in range(20))
            random.seed(3)  # the same for every category
            assert [entry["name"] for entry in drawn[label]] == random.sample(names, 11)
    as_listed = draw(shuffled, SubsetSettings(20, random_state=3, like_toolkit=True))
    for label, chosen in as_listed.items():
        random.seed(3)
        assert chosen == random.sample([entry for entry in shuffled if entry["label"] == label], 11)
    other = draw(listed, SubsetSettings(20, random_state=4))
    assert other["car"] != draw(listed, SubsetSettings(20, random_state=3))["car"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    scenes = draw_scenes(root, "val", 12, width=320, height=180)
    create_category_dir(scenes.labels, scenes.images, root / "categories")
    return root / "categories"


@pytest.fixture
def categories(made: Path, tmp_path: Path) -> Path:
    """A folder of categories that may be changed."""
    return Path(shutil.copytree(made, tmp_path / "categories"))


def test_files_and_list(made: Path, tmp_path: Path) -> None:
    settings = SubsetSettings(40, 3, 7, None, ("truck", "nothing"))
    seen: list[int] = []
    report = create_image_subset(made, tmp_path / "a" / "out", settings, progress=lambda *_: seen.append)
    assert report.unknown_labels == ("nothing",)
    assert sum(seen) == sum(report.drawn.values())
    found = files(tmp_path / "a" / "out")
    written = json.loads(found.pop("image_info.json"))
    arguments = {"num": 40, "category_min": 3, "random_state": 7, "resize_to": None}
    assert written["args"] == arguments | {"excluded_labels": ["truck", "nothing"]}
    assert written["results"] == report.drawn
    assert Counter(entry["label"] for entry in written["images"]) == report.drawn
    assert "truck" not in report.drawn
    known = {entry["name"]: entry for entry in json.loads((made / "image_info.json").read_text())}
    assert all(known[entry["name"]] == entry for entry in written["images"])
    assert set(found) == {entry["name"] for entry in written["images"]}
    for entry in written["images"]:
        assert found[entry["name"]] == (made / entry["label"] / entry["name"]).read_bytes()


def picture_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_resizing(made: Path, tmp_path: Path) -> None:
    create_image_subset(made, tmp_path / "out", SubsetSettings(resize_to=24))
    written = json.loads((tmp_path / "out" / "image_info.json").read_text())
    for entry in written["images"]:
        original = (made / entry["label"] / entry["name"]).read_bytes()
        content = (tmp_path / "out" / entry["name"]).read_bytes()
        assert picture_size(tmp_path / "out" / entry["name"]) == (24, 24)
        assert content == encode_picture(resize_bilinear(decode_picture(original, "x"), 24), ".jpg")
        assert entry["area"] == np.prod(picture_size(made / entry["label"] / entry["name"]))


def test_interrupted_work_goes_on(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.datasets.subset.IMAGES_PER_PIECE", 10)
    settings = SubsetSettings(resize_to=16)
    out, seen = tmp_path / "out", list[int]()
    first, rest = Stopping(after=3), Stopping()
    with pytest.raises(StoppedError):
        create_image_subset(made, out, settings, spread=first)
    assert not out.exists()
    create_image_subset(made, out, settings, spread=rest, progress=lambda *_: seen.append)
    done = [entry["name"] for piece in [*first.pieces, *rest.pieces] for entry in piece]
    assert len(done) == len(set(done)) == sum(seen) == 96
    create_image_subset(made, tmp_path / "whole", settings)
    assert files(out) == files(tmp_path / "whole")


def test_settings_of_another_subset(made: Path, tmp_path: Path) -> None:
    settings = SubsetSettings(30, 2, 5, 20, ("car", "truck"))
    create_image_subset(made, tmp_path / "one", settings)
    again = SubsetSettings.of(tmp_path / "one" / "image_info.json")
    assert again == settings
    again_args = json.loads((tmp_path / "one" / "image_info.json").read_text())["args"]
    create_image_subset(made, tmp_path / "two", again)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert "like_toolkit" not in json.loads((tmp_path / "one" / "image_info.json").read_text())
    theirs = SubsetSettings(30, like_toolkit=True)
    create_image_subset(made, tmp_path / "like", theirs)
    assert SubsetSettings.of(tmp_path / "like" / "image_info.json") == theirs
    assert set(json.loads((tmp_path / "like" / "image_info.json").read_text())["args"]) == set(again_args)
    old = tmp_path / "old.json"  # an earlier toolkit wrote the excluded labels as text, and None for what was not given
    old.write_text(json.dumps({"args": {"num": None, "excluded_labels": "car,truck"}, "images": []}))
    assert SubsetSettings.of(old) == SubsetSettings(5000, 0, 0, None, ("car", "truck"))
    for arguments, says in (({"num": "many"}, "num is 'many'"), ({"excluded_labels": [1]}, "excluded_labels are")):
        old.write_text(json.dumps({"args": arguments, "images": []}))
        with pytest.raises(InputError, match=says):
            SubsetSettings.of(old)
    old.write_text(json.dumps({"args": {}, "images": [], "like_toolkit": "yes"}))
    with pytest.raises(InputError, match="like_toolkit is 'yes', expected true or false"):
        SubsetSettings.of(old)


def test_what_is_replaced(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    create_image_subset(made, out, SubsetSettings(20))
    create_image_subset(made, out, SubsetSettings(40))
    assert len(files(out)) > 40
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="was not made by create_image_subset"):
        create_image_subset(made, other, SubsetSettings())
    assert files(other) == {"notes.txt": b"mine"}
    create_image_subset(made, other, SubsetSettings(), overwrite=True)
    assert "notes.txt" not in files(other)


def test_bad_input(categories: Path, tmp_path: Path) -> None:
    def create(output: Path = tmp_path / "out", **settings: Any) -> None:
        create_image_subset(categories, output, SubsetSettings(**settings))

    refused = refusing(tmp_path, create)
    refused("would replace", output=categories)
    refused("would replace", output=categories / ".." / "categories")
    refused("would replace", output=tmp_path)
    refused("no image of a category", excluded_labels=("car", "pedestrian", "traffic light", "traffic sign", "truck"))
    refused("num is -1", num=-1)
    refused("resize_to is 0", resize_to=0)
    refused("category_min is -2", category_min=-2)
    list_file = categories / "image_info.json"
    known = json.loads(list_file.read_text())
    first = categories / known[0]["label"] / known[0]["name"]
    content = first.read_bytes()
    first.unlink()
    refused(f"{first.name} is missing")
    first.write_bytes(content[:100])
    refused("cannot be decoded", resize_to=8)
    list_file.write_text(json.dumps([known[0] | {"label": "../x"}]))
    refused("the label of image 0 is '../x'")
    list_file.write_text(json.dumps([known[0] | {"name": "../../x.jpg"}]))
    refused("the name of image 0 is")
    list_file.write_text(json.dumps([{"name": "a.jpg"}]))
    refused("image 0 has no label")
    list_file.write_text(json.dumps([known[1], known[1]]))
    refused("two images called")
    list_file.write_text("[{")
    refused("is broken")
    list_file.unlink()
    refused("has no image_info.json")


def test_the_current_folder_may_be_the_output(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    create_image_subset(made, Path(), SubsetSettings(10))
    assert (tmp_path / "here" / "image_info.json").is_file()


def test_table() -> None:
    drawn = {"car": 38696, "truck": 1597, "pedestrian": 5052, "traffic sign": 13066, "traffic light": 10116}
    assert table(drawn).splitlines() == [
        "|               label|   num|",
        "|--------------------|------|",
        "|                 car| 38696|",
        "|               truck|  1597|",
        "|          pedestrian|  5052|",
        "|        traffic sign| 13066|",
        "|       traffic light| 10116|",
        "|               total| 68527|",
    ]
