from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.core.errors import InputError
from engine.data.image_set import open_image_set, read_images
from engine.data.preprocess import preprocess_images
from engine.datasets.cifar import LABEL_NAMES, parse_batch, prepare_cifar
from tests.support.prepare import files, one_sentence, refusing

ROWS = 12


def text(content: bytes) -> bytes:
    """The opcode with which Python 2 stored a str."""
    return b"T" + struct.pack("<i", len(content)) + content


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def array(pixels: np.ndarray, code: bytes = b"u1", by_column: bytes = b"\x89") -> bytes:
    """numpy.core.multiarray._reconstruct(numpy.ndarray, (0,), 'b') with the state of an array of NumPy 1."""
    dtype = b"cnumpy\ndtype\n(" + text(code) + number(0) + number(1) + b"tR"
    dtype += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    shape = b"(" + b"".join(number(size) for size in pixels.shape) + b"t"
    state = b"(" + number(1) + shape + dtype + by_column + text(pixels.tobytes()) + b"t"
    start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n("
    return start + number(0) + b"t" + text(b"b") + b"tR" + state + b"b"


def batch(data: bytes, numbers: list[int], **more: bytes) -> bytes:
    """A pickled dictionary, in protocol 2."""
    items = {b"batch_label": text(b"training batch 1 of 5"), b"labels": b"](" + b"".join(map(number, numbers)) + b"e"}
    items[b"data"] = data
    items |= {name.encode(): value for name, value in more.items()}
    return b"\x80\x02}(" + b"".join(text(name) + value for name, value in items.items()) + b"u."


def rows(seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (ROWS, 32, 32, 3), np.uint8), random.integers(0, 10, ROWS)


def flat(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


NAMES = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]


def batches() -> dict[str, bytes]:
    found = {}
    for seed, name in enumerate(NAMES):
        images, labels = rows(seed)
        found[name] = batch(array(flat(images)), labels.tolist())
    return found


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "downloads"
    folder.mkdir()
    return tar(folder / "cifar-10-python.tar.gz", {"readme.html": b"x", "batches.meta": b"x"} | batches())


def test_rows(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert prepare_cifar(archive.parent, out) == {"train": 38, "val": 7, "repair": 15, "test": 12}
    images, labels = (np.concatenate(column) for column in zip(*(rows(seed) for seed in range(5)), strict=True))
    train = open_image_set(out / "train.h5")
    assert np.array_equal(train.labels, labels[:38])
    assert np.array_equal(read_images(train, 0, 38), preprocess_images(images[:38], "toolkit"))
    repair = open_image_set(out / "repair.h5")
    assert np.array_equal(repair.labels, labels[45:])
    images, labels = rows(5)
    test = open_image_set(out / "test.h5")
    assert np.array_equal(test.labels, labels)
    assert np.array_equal(read_images(test, 0, 12), preprocess_images(images, "toolkit"))
    assert (test.label_names, test.preprocess, test.image_shape) == (LABEL_NAMES, "toolkit", (32, 32, 3))
    assert prepare_cifar(archive, tmp_path / "none", data_ratio=(0.5, 0.5, 0, 0)) == {"train": 30, "val": 30}
    prepare_cifar(archive, tmp_path / "plain", data_ratio=(0, 0, 1, 0), preprocess="resize")
    plain = open_image_set(tmp_path / "plain" / "test.h5")
    np.testing.assert_allclose(read_images(plain, 0, 12), images / 255, atol=1e-6)


def test_archive_and_folder_give_the_same(archive: Path, tmp_path: Path) -> None:
    folder = tmp_path / "unpacked" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, content in batches().items():
        (folder / name).write_bytes(content)
    found = []
    for source in (archive, archive.parent, folder, folder.parent):
        out = tmp_path / f"out{len(found)}"
        prepare_cifar(source, out)
        found.append(files(out))
    assert found[0] == found[1] == found[2] == found[3]


class Caller:
    """Pickles into a call of `os.system`."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_are_not_executed(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "mark"
    hostile = pickle.dumps({"data": Caller(mark), "labels": []}, protocol)
    with pytest.raises(
        InputError, match=r"names (posix|nt)\.system, which would be called, expected a batch of CIFAR-10"
    ):
        parse_batch(hostile, "data_batch_1")
    assert not mark.exists()
    pickle.loads(hostile)
    assert mark.exists(), "the pickle does what it is meant to do"


@pytest.mark.parametrize(
    "name", ["builtins\neval", "numpy\nfromfile", "numpy.core.multiarray\nscalar", "engine.datasets.cifar\npickle"]
)
def test_no_other_name_is_found(name: str) -> None:
    images, labels = rows(0)
    hostile = batch(array(flat(images)), labels.tolist(), extra=f"c{name}\n".encode())
    with pytest.raises(InputError, match="which would be called"):
        parse_batch(hostile, "x")


def test_batches_that_are_none() -> None:
    images, labels = rows(0)
    pixels, numbers = flat(images), labels.tolist()
    assert np.array_equal(parse_batch(batch(array(pixels), numbers), "x")[0], images)
    good = array(pixels)
    for content, says in (
        (b"", "is no pickle"),
        (b"\x80\x02}(", "is no pickle"),
        (pickle.dumps([1, 2]), "has no data and labels"),
        (batch(good, numbers)[:-3000], "is no pickle"),
        (batch(text(b"abc"), numbers), "data is no array of bytes"),
        (batch(array(pixels[:, :100]), numbers), "data is no array of bytes"),
        (batch(array(pixels[:0]), []), "data is no array of bytes"),
        (batch(array(pixels, code=b"f4"), numbers), "data is no array of bytes"),
        (batch(array(pixels, by_column=b"\x88"), numbers), "data is no array of bytes"),
        (batch(good, numbers[1:]), "has 12 images and 11 labels"),
        (batch(good, [*numbers[1:], 10]), "labels are no numbers from 0 to 9"),
        (batch(good, [*numbers[1:], -1]), "labels are no numbers from 0 to 9"),
        (batch(good, numbers, labels=text(bytes(12))), "labels are no numbers"),
    ):
        with one_sentence("data_batch_1", says):
            parse_batch(content, "data_batch_1")


def test_archives_that_are_not_what_they_claim(archive: Path, tmp_path: Path) -> None:
    whole = archive.read_bytes()
    refused = refusing(tmp_path, prepare_cifar, input_dir=archive, output_dir=tmp_path / "out")

    refused("has no cifar-10-python.tar.gz", input_dir=tmp_path)
    refused("has no cifar-10-python.tar.gz", input_dir=tmp_path / "nowhere")
    for content in (b"<html>", b"", gzip.compress(b"x" * 2000), whole[: len(whole) // 2]):
        archive.write_bytes(content)
        refused("cifar-10-python.tar.gz cannot be read|has no data_batch_1")
    tar(archive, {name: content for name, content in batches().items() if name != "data_batch_3"})
    refused("has no data_batch_3")
    tar(archive, batches() | {"test_batch": b"x"})
    refused(r"cifar-10-python\.tar\.gz/test_batch is no pickle")
