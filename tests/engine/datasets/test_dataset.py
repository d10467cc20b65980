from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage.transform import resize

from engine.core.errors import InputError, WorkError
from engine.data.image_set import open_image_set
from engine.data.pictures import read_picture
from engine.data.preprocess import preprocess_images
from engine.datasets.dataset import IMAGE_FOLDER, Dataset, Pictures, prepare_dataset
from engine.datasets.division import NAMES
from tests.support.prepare import one_sentence, refusing

LABEL_NAMES = ("dark", "middle", "light")
ONLY_REPAIR = (0.0, 0.0, 0.0, 1.0)


def noise(count: int, shape: tuple[int, ...] = (6, 5, 3), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, *shape) that all differ, and labels (count,)."""
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, *shape), np.uint8), random.integers(0, 3, count)


def dataset(*given: Any, **named: Any) -> Dataset:
    """One that gives these pictures."""
    return Dataset("Noise.", lambda _: Pictures(LABEL_NAMES, *given, **named))


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with h5py.File(path) as file:
        assert (file["labels"][:].sum(axis=1) == 1).all() and file["labels"].shape[1] == 3
        return file["images"][:], file["labels"][:].argmax(axis=1)


@pytest.mark.parametrize("shape", [(6, 5, 3), (6, 5)])
def test_every_image_comes_once_with_its_label(shape: tuple[int, ...], tmp_path: Path) -> None:
    images, labels = noise(40, shape)
    prepared = prepare_dataset(dataset(images, labels), tmp_path, tmp_path / "out", preprocess="pad", side=7)
    assert prepared.rows == {"train": 20, "val": 4, "test": 8, "repair": 8}
    assert (prepared.classes, prepared.with_ids) == (3, False)
    found = [read(tmp_path / "out" / f"{name}.h5") for name in NAMES]
    order = np.arange(40)
    np.random.default_rng(0).shuffle(order)
    assert np.array_equal(np.concatenate([labels for _, labels in found]), labels[order])
    expected = preprocess_images(images[order], "pad", (7, 7))
    assert np.array_equal(np.concatenate([images for images, _ in found]), expected)
    written = open_image_set(tmp_path / "out" / "train.h5")
    assert (written.label_names, written.preprocess) == (LABEL_NAMES, "pad")


def test_a_test_set_stays_whole_and_in_order(tmp_path: Path) -> None:
    (images, labels), (test_images, test_labels) = noise(30), noise(9, (4, 4), seed=1)
    given = dataset(images, labels, test_images, test_labels.tolist())
    prepared = prepare_dataset(given, tmp_path, tmp_path / "a", data_ratio=(0.3, 0.1, 0.2, 0.4), preprocess="pad")
    assert prepared.rows == {"train": 11, "val": 4, "repair": 15, "test": 9}
    pixels, classes = read(tmp_path / "a" / "test.h5")
    assert np.array_equal(classes, test_labels)
    assert np.array_equal(pixels, preprocess_images(test_images, "pad"))
    pixels = np.concatenate([read(tmp_path / "a" / f"{name}.h5")[0] for name in ("train", "val", "repair")])
    expected = preprocess_images(images, "pad")
    assert sorted(row.tobytes() for row in pixels) == sorted(row.tobytes() for row in expected)
    prepare_dataset(given, tmp_path, tmp_path / "b", data_ratio=ONLY_REPAIR, preprocess="pad")
    assert [path.name for path in (tmp_path / "b").glob("*.h5")] == ["repair.h5"]


def test_files_are_called_by_their_place_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images, labels = noise(3)
    names = ["in/deep/a.png", "in/b.png", "elsewhere.png"]
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name, pixels in zip(names, images, strict=True):
        Image.fromarray(pixels).save(name)
    given = dataset([Path(names[0]), tmp_path / names[1], names[2]], labels)
    prepared = prepare_dataset(given, Path("in"), Path("out"), data_ratio=ONLY_REPAIR, preprocess="pad")
    assert prepared.with_ids
    with h5py.File("out/repair.h5") as file:
        ids = [name.decode() for name in file["image_ids"]]
        pixels = dict(zip(ids, file["images"][:], strict=True))
    assert set(ids) == {"deep/a.png", "b.png", (tmp_path / "elsewhere.png").as_posix()}
    assert np.array_equal(pixels["b.png"], preprocess_images(images[1:2], "pad")[0])


class Special(np.ndarray):
    """A kind of array that workers would have to import from the author's package."""


class Word(str):
    """A kind of text of that sort."""

    __slots__ = ()


def without_the_package(function: Callable[[Any], Any], pieces: Iterable[Any], count: int) -> Iterator[tuple[Any, Any]]:
    """What workers are sent names nothing of this module, which stands for the author's package."""
    for piece in pieces:
        sent = pickle.dumps((function, piece))
        assert __name__.encode() not in sent
        function, piece = pickle.loads(sent)  # noqa: PLW2901
        yield piece, function(piece)


def test_workers_need_nothing_of_the_package(tmp_path: Path) -> None:
    images, labels = noise(8)
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    for sources, classes in (
        (images.view(Special), labels.view(Special)),
        ([Word(tmp_path / "a.png")] * 8, labels.tolist()),
    ):
        given = Dataset("Noise.", lambda _, s=sources, c=classes: Pictures(LABEL_NAMES, s, c))
        assert b"Special" in pickle.dumps(sources) or b"Word" in pickle.dumps(sources)
        prepare_dataset(given, tmp_path, tmp_path / "out", spread=without_the_package, preprocess="pad")


IMAGES, LABELS = noise(4)


@pytest.mark.parametrize(
    ("pictures", "says"),
    [
        ({}, "nothing gives a dict, expected engine.Pictures"),
        (Pictures(("a",), IMAGES, LABELS), "1 label_names, expected one for each of at least two classes"),
        (Pictures("abc", IMAGES, LABELS), "label_names are a str, expected a text for each class"),
        (Pictures(("a", 1), IMAGES, LABELS), "label_names are a tuple, expected a text for each class"),  # type: ignore[arg-type]
        (Pictures(("a", "b", "a"), IMAGES, LABELS), "the label name a twice, expected names that differ"),
        (Pictures(LABEL_NAMES, IMAGES[:0], LABELS[:0]), "has 0 images, expected at least one"),
        (Pictures(LABEL_NAMES, [], []), "has 0 images, expected at least one"),
        (Pictures(LABEL_NAMES, IMAGES / 255, LABELS), "images are float64 (4, 6, 5, 3), expected uint8"),
        (Pictures(LABEL_NAMES, IMAGES[..., :1], LABELS), "images are uint8 (4, 6, 5, 1), expected uint8 (n, h, w)"),
        (Pictures(LABEL_NAMES, IMAGES[0, 0], LABELS), "images are uint8 (5, 3), expected uint8 (n, h, w)"),
        (Pictures(LABEL_NAMES, IMAGES[:, :0], LABELS), "images are uint8 (4, 0, 5, 3), expected uint8"),
        (Pictures(LABEL_NAMES, list(IMAGES), LABELS), "images are a list with a ndarray, expected an array of all"),  # type: ignore[arg-type]
        (Pictures(LABEL_NAMES, "a.png", LABELS), "images are a str, expected an array of all, or paths"),
        (Pictures(LABEL_NAMES, ["no.png"], [0]), "no.png cannot be read ([Errno 2] No such file"),
        (Pictures(LABEL_NAMES, IMAGES, LABELS[:3]), "has 3 labels, expected 4, one for each image"),
        (Pictures(LABEL_NAMES, IMAGES, np.eye(3)[LABELS]), "labels are float64 (4, 3), expected whole numbers (4,)"),
        (Pictures(LABEL_NAMES, IMAGES, LABELS > 0), "labels are bool (4,), expected whole numbers (4,)"),
        (Pictures(LABEL_NAMES, IMAGES, [[0], [1, 2], [], []]), "expected whole numbers (4,), one for each image"),  # type: ignore[list-item]
        (Pictures(LABEL_NAMES, IMAGES, [0, 1, 3, 2]), "label 2 is 3, expected 0 to 2"),
        (Pictures(LABEL_NAMES, IMAGES, [0, -1, 3, 2]), "label 1 is -1, expected 0 to 2"),
        (Pictures(LABEL_NAMES, IMAGES, np.uint64([0, 2**63, 1, 2])), "label 1 is 9223372036854775808, expected 0 to 2"),
        (Pictures(LABEL_NAMES, IMAGES, LABELS, None, LABELS), "test_labels and no test_images, expected both"),
        (Pictures(LABEL_NAMES, IMAGES, LABELS, IMAGES), "test set: labels are object (), expected whole numbers"),
        (Pictures(LABEL_NAMES, IMAGES, LABELS, IMAGES, [0, 1, 2, 5]), "test set: label 3 is 5, expected 0 to 2"),
        (Pictures(LABEL_NAMES, IMAGES, LABELS, IMAGES[:0], []), "test set has 0 images, expected at least one"),
    ],
)
def test_what_does_not_fit_is_refused(pictures: Any, says: str, tmp_path: Path) -> None:
    with one_sentence(says):
        prepare_dataset(Dataset("Bad.", lambda _: pictures), tmp_path, tmp_path / "out", name="nothing")
    assert not list(tmp_path.iterdir())


@given(st.lists(st.integers(-5, 8), min_size=1, max_size=12))
def test_labels_are_in_range_or_the_first_that_is_not_is_named(labels: list[int]) -> None:
    images = np.zeros((len(labels), 2, 2), np.uint8)
    wrong = [row for row, label in enumerate(labels) if not 0 <= label < 3]
    # Labels that are right go on to the folder, which is none: nothing is ever written.
    with pytest.raises(InputError) as caught:
        prepare_dataset(dataset(images, labels), Path(), Path(__file__), data_ratio=ONLY_REPAIR)
    expected = f"label {wrong[0]} is {labels[wrong[0]]}, expected 0 to 2" if wrong else "is no folder"
    assert expected in str(caught.value)


def test_settings_and_padding(tmp_path: Path) -> None:
    for options, says in (
        ({"preprocess": "crop"}, "preprocess method crop, expected one of"),
        ({"side": 0}, "side is 0, expected at least 1"),
        ({"data_ratio": (1, 1, 0, 0)}, "sums to 2, expected a sum of 1"),
        ({"random_state": -1}, "random_state is -1, expected 0 or more"),
        ({"preprocess": "pad", "side": 5}, "an image is 6×5; padding needs at most 5×5, expected a smaller one"),
    ):
        with pytest.raises(InputError, match=says):
            prepare_dataset(dataset(IMAGES, LABELS), tmp_path, tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def raising(error: BaseException) -> Callable[[Path], Pictures]:
    def read(_: Path) -> Pictures:
        raise error

    return read


def test_what_reading_raises(tmp_path: Path) -> None:
    says = r"^the data set cannot be read from .*in \(ValueError: bad header\), expected what its author describes$"
    with pytest.raises(InputError, match=says):
        prepare_dataset(Dataset("Bad.", raising(ValueError("bad header\nand more"))), tmp_path / "in", tmp_path)
    for error in (InputError("x is y, expected z"), WorkError("x, expected y"), FileNotFoundError("x"), MemoryError()):
        with pytest.raises(type(error)) as caught:
            prepare_dataset(Dataset("Bad.", raising(error)), tmp_path / "in", tmp_path)
        assert caught.value is error


def test_a_summary_and_a_function(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a Dataset of a function and a str, expected its summary, a text, and read"):
        Dataset(lambda _: None, "Noise.")  # type: ignore[arg-type]


# `image-folder`: anybody's pictures, one folder per class

CLASSES = {"a cat": 7, "dog": 5, "Öl": 8}


def prepare_image_folder(input_dir: Path, output_dir: Path, **options: Any) -> dict[str, int]:
    return prepare_dataset(IMAGE_FOLDER, input_dir, output_dir, name=str(input_dir), **options).rows


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """20 pictures of several sizes and formats; beside them files that are none."""
    folder = tmp_path / "pictures"
    random = np.random.default_rng(0)
    for name, count in CLASSES.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            height, width = random.integers(20, 70, 2)
            suffix = (".png", ".jpg", ".JPEG", ".bmp")[number % 4]
            pixels = random.integers(0, 256, (height, width, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}{suffix}")
        (folder / name / "notes.txt").write_text("no picture")
    (folder / ".hidden").mkdir()
    (folder / "list.csv").write_text("no class")
    return folder


def read_with_ids(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    with h5py.File(path) as file:
        return [name.decode() for name in file["image_ids"]], file["labels"][:].argmax(axis=1), file["images"][:]


def test_rows_of_an_image_folder(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    rows = prepare_image_folder(pictures, out, data_ratio=(0.33, 0.33, 0.34, 0), random_state=3)
    assert rows == {"train": 6, "val": 6, "test": 8}, "no picture is lost"
    names = np.array(sorted(str(path.relative_to(pictures)) for path in pictures.glob("*/[0-9]*")), object)
    np.random.default_rng(3).shuffle(names)
    found = [read_with_ids(out / f"{part}.h5") for part in rows]
    assert [name for ids, _, _ in found for name in ids] == names.tolist()
    for ids, labels, images in found:
        for name, label, image in zip(ids, labels, images, strict=True):
            assert sorted(CLASSES)[label] == name.partition("/")[0]
            expected = preprocess_images(read_picture(pictures / name)[None], "resize")[0]
            assert np.array_equal(image, expected)
    assert open_image_set(out / "train.h5").label_names == ("a cat", "dog", "Öl")
    assert open_image_set(out / "train.h5").preprocess == "resize"


def test_other_sides_and_methods(pictures: Path, tmp_path: Path) -> None:
    for method, side in (("toolkit", 16), ("pad", 80), ("resize", 5)):
        out = tmp_path / method
        prepare_image_folder(pictures, out, data_ratio=(0, 0, 0, 1), preprocess=method, side=side)
        ids, _, images = read_with_ids(out / "repair.h5")
        assert images.shape == (20, side, side, 3)
        at_most = None if method == "pad" else 8 * side
        picture = read_picture(pictures / ids[4], at_most=at_most)
        assert np.array_equal(images[4], preprocess_images(picture[None], method, (side, side))[0])


def test_photographs(pictures: Path, tmp_path: Path) -> None:
    """A large picture is averaged first; that is close to resizing it at once."""
    ramp = np.linspace(0, 255, 900)
    smooth = np.stack([np.add.outer(ramp, ramp[:700]) / 2] * 3, axis=2).astype(np.uint8)
    Image.fromarray(smooth).save(pictures / "dog" / "large.png")
    prepare_image_folder(pictures, tmp_path, data_ratio=(0, 0, 0, 1))
    ids, _, images = read_with_ids(tmp_path / "repair.h5")
    assert np.abs(images[ids.index("dog/large.png")] - resize(smooth, (32, 32))).max() < 0.01


def test_bad_image_folders(pictures: Path, tmp_path: Path) -> None:
    refused = refusing(tmp_path, prepare_image_folder, input_dir=pictures, output_dir=tmp_path / "out")
    refused("no such folder", input_dir=tmp_path / "nowhere")
    refused("has 0 folders", input_dir=pictures / "dog")
    refused("has 1 folders", input_dir=tmp_path)
    refused(r"padding needs at most 32×32", preprocess="pad")
    (pictures / "empty").mkdir()
    refused("empty has no picture")
    (pictures / "empty" / "x.jpg").write_bytes((pictures / "dog" / "1.jpg").read_bytes()[:-300])
    refused(r"x\.jpg cannot be decoded")
    (pictures / "empty" / "x.jpg").write_text("no picture")
    refused(r"x\.jpg is no picture")
