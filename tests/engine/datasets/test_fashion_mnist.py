from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import cli
from engine.core.errors import InputError
from engine.data.image_set import open_image_set, read_images
from engine.data.preprocess import preprocess_images
from engine.datasets.fashion_mnist import LABEL_NAMES, prepare_fashion_mnist, read_idx, read_split
from tests.support.prepare import one_sentence

SHIPPED = Path(cli.__file__).parent / "quickstart_data"
TRAIN, TEST = 120, 30


def idx(array: np.ndarray) -> bytes:
    return np.array([0x0800 + array.ndim, *array.shape], ">u4").tobytes() + array.astype(np.uint8).tobytes()


def source_arrays(rows: int) -> tuple[np.ndarray, np.ndarray]:
    drawn = np.random.default_rng(rows)
    images = drawn.integers(0, 256, (rows, 28, 28), np.uint8)
    images[:, 0, 0] = np.arange(rows)  # tells the rows apart
    return images, drawn.integers(0, 10, rows, np.uint8)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for split, rows in (("train", TRAIN), ("t10k", TEST)):
        images, labels = source_arrays(rows)
        (folder / f"{split}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(idx(labels))  # plain files are read as well
    return folder


def source_rows(path: Path) -> list[int]:
    """Numbers of the source rows in a padded set."""
    found = open_image_set(path)
    return np.rint(read_images(found, 0, found.rows)[:, 2, 2, 0] * 255).astype(int).tolist()


def test_parts_divide_the_training_images_and_keep_the_test_images(source: Path, tmp_path: Path) -> None:
    out, seen, totals = tmp_path / "a" / "out", [], []

    def bar(title: str, total: int | None) -> Callable[[int], None]:
        totals.append(total)
        return seen.append

    rows = prepare_fashion_mnist(source, out, random_state=3, progress=bar)
    assert rows == {"train": 75, "val": 15, "test": 30, "repair": 30}  # 120 × 5:1:2 / 8
    assert totals == [sum(seen)] == [TRAIN + TEST]
    assert sorted(p.name for p in out.iterdir()) == ["repair.h5", "test.h5", "train.h5", "val.h5"]
    parts = [source_rows(out / f"{part}.h5") for part in ("train", "val", "repair")]
    rows_used = [row for part in parts for row in part]
    assert sorted(rows_used) == list(range(TRAIN))
    assert rows_used != list(range(TRAIN)), "shuffled"
    images, labels = source_arrays(TEST)
    test = open_image_set(out / "test.h5")
    assert np.array_equal(test.labels, labels)
    assert np.array_equal(read_images(test, 0, TEST), preprocess_images(images, "pad"))
    train = open_image_set(out / "train.h5")
    assert np.array_equal(train.labels, source_arrays(TRAIN)[1][parts[0]])
    for path in out.iterdir():
        found = open_image_set(path)
        assert (found.label_names, found.preprocess, found.image_shape) == (LABEL_NAMES, "pad", (32, 32, 3))
        with h5py.File(path) as file:
            assert (file["images"].dtype, file["labels"].dtype) == (np.float32, np.uint8)
            assert file["images"].chunks is None


def test_the_seed_decides_the_order(source: Path, tmp_path: Path) -> None:
    def repair_rows(name: str, random_state: int | None) -> list[int]:
        prepare_fashion_mnist(source, tmp_path / name, random_state=random_state)
        return source_rows(tmp_path / name / "repair.h5")

    assert repair_rows("a", 3) == repair_rows("b", 3) != repair_rows("c", 4)
    assert repair_rows("d", None) == list(range(90, 120))


@pytest.mark.parametrize("preprocess", ["toolkit", "resize"])
def test_preprocess_is_applied_and_stored(source: Path, tmp_path: Path, preprocess: str) -> None:
    rows = prepare_fashion_mnist(source, tmp_path / "out", data_ratio=(0, 0, 1, 0), preprocess=preprocess)
    assert rows == {"test": TEST}
    test = open_image_set(tmp_path / "out" / "test.h5")
    assert test.preprocess == preprocess
    expected = preprocess_images(source_arrays(TEST)[0], preprocess)
    assert np.array_equal(read_images(test, 0, TEST), expected)


def test_dividing_as_the_toolkit_does(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare_fashion_mnist(source, out)
    rows = prepare_fashion_mnist(source, out, divide_rate=0.2, random_state=7, preprocess="toolkit")
    assert rows == {"train": 96, "repair": 24, "test": TEST}
    assert {path.stem for path in out.iterdir()} == set(rows), "the val of before would share rows with this train"
    images, labels = source_arrays(TRAIN)
    drawn = sorted(random.Random(7).sample(range(TRAIN), 24), reverse=True)
    order = np.arange(TRAIN)
    np.random.default_rng(7).shuffle(order)
    repair = open_image_set(out / "repair.h5")
    assert np.array_equal(read_images(repair, 0, 24), preprocess_images(images[order[drawn]], "toolkit"))
    assert np.array_equal(repair.labels, labels[order[drawn]])


@pytest.mark.parametrize(("rate", "seed"), [(None, 7), (0.35, 3), (0.1, 0)])
def test_the_rows_of_the_toolkit(source: Path, tmp_path: Path, rate: float | None, seed: int) -> None:
    """Drawn by Python's own generator from all rows as they come: repair from the last to the first, train in order."""
    rows = prepare_fashion_mnist(source, tmp_path, divide_rate=rate, random_state=seed, like_toolkit=True)
    random.seed(seed)
    drawn = random.sample(range(TRAIN), int(TRAIN * (0.2 if rate is None else rate)))
    assert rows == {"train": TRAIN - len(drawn), "repair": len(drawn), "test": TEST}
    images, labels = source_arrays(TRAIN)
    left = [row for row in range(TRAIN) if row not in drawn]
    for name, chosen in (("repair", sorted(drawn, reverse=True)), ("train", left)):
        found = open_image_set(tmp_path / f"{name}.h5")
        assert np.array_equal(found.labels, labels[chosen])
        assert np.array_equal(read_images(found, 0, len(chosen)), preprocess_images(images[chosen], "pad"))


def test_earlier_parts_of_ours_go_and_files_of_others_stay(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare_fashion_mnist(source, out)
    foreign = out / "train.h5"
    foreign.unlink()
    with h5py.File(foreign, "w") as file:
        file["images"] = np.zeros((1, 32, 32, 3))
    before = foreign.read_bytes()
    prepare_fashion_mnist(source, out, data_ratio=(0, 0, 0.5, 0.5))
    assert {p.stem for p in out.iterdir()} == {"train", "test", "repair"}
    assert foreign.read_bytes() == before


def test_bad_files(source: Path, tmp_path: Path) -> None:
    images, labels = source / "train-images-idx3-ubyte.gz", source / "train-labels-idx1-ubyte"
    good_images, good_labels = images.read_bytes(), labels.read_bytes()
    raw = gzip.decompress(good_images)
    cases = [
        (images, good_images[:-500], "cannot be read"),
        (images, raw, "expected a gzip file"),
        (images, b"", "expected a gzip file"),
        (images, gzip.compress(raw[:-5]), "expected 94080 by its header"),
        (images, gzip.compress(good_labels), "magic 0x00000801, expected 0x00000803"),
        (images, gzip.compress(b"\0\0"), "magic"),
        (images, gzip.compress(idx(np.zeros((TRAIN, 32, 32)))), "32×32, expected 28×28"),
        (labels, idx(np.zeros(TRAIN - 1)), "has 119 labels, expected 120"),
        (labels, idx(np.full(TRAIN, 10)), "label 0 is 10, expected 0 to 9"),
    ]
    for path, content, message in cases:
        path.write_bytes(content)
        with one_sentence(path.name, message):
            prepare_fashion_mnist(source, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        images.write_bytes(good_images)
        labels.write_bytes(good_labels)
    labels.unlink()
    with pytest.raises(InputError, match=r"has no train-labels-idx1-ubyte.gz"):
        prepare_fashion_mnist(source, tmp_path / "out")
    with pytest.raises(InputError, match=r"without a seed.*expected --random-state"):
        prepare_fashion_mnist(source, tmp_path / "out", divide_rate=0.1, like_toolkit=True)
    with pytest.raises(InputError, match="expected one of toolkit, pad, resize"):
        prepare_fashion_mnist(source, tmp_path / "out", preprocess="crop")


def test_shipped_data() -> None:
    images, labels = read_split(SHIPPED, "t10k")
    assert images.shape == (5000, 28, 28)
    assert np.bincount(labels).tolist() == [500] * 10
    repair, repair_labels = read_split(SHIPPED, "train")
    assert repair.shape == (5000, 28, 28)
    assert np.bincount(repair_labels).min() >= 400
    assert read_idx(SHIPPED / "t10k-labels-idx1-ubyte.gz", 1).tolist() == labels.tolist()
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 6_000_000
