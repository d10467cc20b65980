from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from skimage.transform import resize

from engine.core.errors import InputError
from engine.data.image_set import open_image_set
from engine.datasets.bdd import LABEL_NAMES
from engine.datasets.bdd_objects import prepare_bdd_objects
from engine.datasets.category_dir import create_category_dir
from engine.datasets.subset import SubsetSettings, create_image_subset
from tests.support.prepare import by_toolkit, files, refusing
from tests.support.scenes import draw_scenes


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A subset of 120 objects."""
    root = tmp_path_factory.mktemp("made")
    scenes = draw_scenes(root, "val", 15, width=320, height=180)
    create_category_dir(scenes.labels, scenes.images, root / "categories")
    create_image_subset(root / "categories", root / "subset", SubsetSettings())
    return root / "subset"


@pytest.fixture
def images(made: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(made, tmp_path / "images"))


def ids(path: Path) -> list[str]:
    with h5py.File(path) as file:
        return [name.decode() for name in file["image_ids"]]


def test_rows(made: Path, tmp_path: Path) -> None:
    out, seen = tmp_path / "out", list[int]()
    settings: Any = {"single_dir": True, "data_ratio": (0.5, 0.2, 0.3, 0), "random_state": 3}
    rows = prepare_bdd_objects(made, out, **settings, progress=lambda *_: seen.append)
    assert rows == {"train": 60, "val": 24, "test": 36}
    assert sum(seen) == 120
    label_of = {image["name"]: image["label"] for image in json.loads((made / "image_info.json").read_text())["images"]}
    names = np.array(sorted(label_of), object)
    np.random.default_rng(3).shuffle(names)
    assert [name for part in rows for name in ids(out / f"{part}.h5")] == names.tolist()
    for part, count in rows.items():
        with h5py.File(out / f"{part}.h5") as file:
            shapes = {name: (file[name].shape, file[name].dtype) for name in ("images", "labels")}
            assert shapes == {"images": ((count, 32, 32, 3), np.float32), "labels": ((count, 13), np.float32)}
            assert file["image_ids"].shape == file["attribute_ids"].shape == (count,)
            for row, name in enumerate(ids(out / f"{part}.h5")):
                assert LABEL_NAMES[int(file["labels"][row].argmax())] == label_of[name]
                assert file["attribute_ids"][row].decode() == name.split("_")[-1]
                if row % 6 == 0:
                    assert np.array_equal(file["images"][row], by_toolkit(made / name))
        found = open_image_set(out / f"{part}.h5")
        assert (found.label_names, found.preprocess) == (LABEL_NAMES, "toolkit")


def test_two_folders_are_taken_together(images: Path, tmp_path: Path) -> None:
    """`train` and `val` with half of the images each give what one folder with all of them gives."""
    content = json.loads((images / "image_info.json").read_text())
    for part, entries in (("train", content["images"][::2]), ("val", content["images"][1::2])):
        (tmp_path / "two" / part).mkdir(parents=True)
        for entry in entries:
            shutil.copy(images / entry["name"], tmp_path / "two" / part)
        (tmp_path / "two" / part / "image_info.json").write_text(json.dumps(content | {"images": entries}))
    prepare_bdd_objects(images, tmp_path / "a", single_dir=True)
    prepare_bdd_objects(tmp_path / "two", tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    # The toolkit shuffles the paths of train, then of val.
    prepare_bdd_objects(tmp_path / "two", tmp_path / "like", random_state=2, like_toolkit=True)
    paths = np.array([*sorted((tmp_path / "two/train").glob("*.jpg")), *sorted((tmp_path / "two/val").glob("*.jpg"))])
    np.random.default_rng(2).shuffle(paths)
    found = [name for part in ("train", "val", "test", "repair") for name in ids(tmp_path / "like" / f"{part}.h5")]
    assert found == [path.name for path in paths]
    name = content["images"][0]["name"]
    shutil.copy(tmp_path / "two" / "train" / name, tmp_path / "two" / "val")
    both = {"args": {}, "images": content["images"][1::2] + content["images"][:1]}
    (tmp_path / "two" / "val" / "image_info.json").write_text(json.dumps(both))
    with pytest.raises(InputError, match="both have"):
        prepare_bdd_objects(tmp_path / "two", tmp_path / "c")


def test_the_scene_is_what_follows_the_last_underscore(images: Path, tmp_path: Path) -> None:
    list_file = images / "image_info.json"
    content = json.loads(list_file.read_text())
    name = content["images"][0]["name"]
    (images / name).rename(images / "7_b_c-d.jpg")
    content["images"][0]["name"] = "7_b_c-d.jpg"
    list_file.write_text(json.dumps(content))
    prepare_bdd_objects(images, tmp_path / "out", single_dir=True, data_ratio=(0, 0, 0, 1), preprocess="resize")
    with h5py.File(tmp_path / "out" / "repair.h5") as file:
        row = list(file["image_ids"]).index(b"7_b_c-d.jpg")
        assert file["attribute_ids"][row] == b"c-d.jpg"
        assert file.attrs["preprocess"] == "resize"
        expected = resize(np.asarray(Image.open(images / "7_b_c-d.jpg")), (32, 32))
        np.testing.assert_allclose(file["images"][row], expected, atol=1e-6)


def test_bad_input(images: Path, tmp_path: Path) -> None:
    list_file = images / "image_info.json"
    content = json.loads(list_file.read_text())
    name = content["images"][0]["name"]
    refused = refusing(tmp_path, prepare_bdd_objects, output_dir=tmp_path / "a", input_dir=images, single_dir=True)

    def listing(**changes: Any) -> None:
        list_file.write_text(json.dumps(content | changes))

    refused("sums to 1.5", data_ratio=(0.5, 0.5, 0.5, 0))
    refused("sums to 0.9", data_ratio=(0.3, 0.2, 0.2, 0.2))
    refused("preprocess method pad", preprocess="pad")
    refused("random_state is -1", random_state=-1)
    refused("no such folder", input_dir=tmp_path / "nowhere")
    refused("train: no such folder.*--single-dir", single_dir=False)
    listing(images=content["images"][1:])
    refused(f"{name} is not in image_info.json")
    listing(images=[*content["images"], {"name": "x.jpg", "label": "car"}])
    refused(r"x\.jpg is missing")
    listing(images=[content["images"][0] | {"label": "cow"}, *content["images"][1:]])
    refused("labelled 'cow', expected a category of BDD100K")
    other = "bus" if content["images"][0]["label"] != "bus" else "car"
    listing(images=[*content["images"], {"name": name, "label": other}])
    refused("in two ways")
    listing(images=[{"name": "../../x.jpg", "label": "car"}])
    refused("expected a plain name")
    listing(images=[{"label": "car"}])
    refused("image 0 has no name")
    list_file.write_text(json.dumps(content["images"]))
    refused('has no "args" and "images"')
    list_file.write_text(list_file.read_text()[:-9])
    refused("cannot be read")
    list_file.unlink()
    refused("has no image_info.json")
    listing()
    whole = (images / name).read_bytes()
    (images / name).write_bytes(whole[:-40])
    refused(f"{name} cannot be decoded", data_ratio=(0, 0, 0, 1))
