from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from engine.core.errors import InputError
from engine.data.image_set import open_image_set, open_reader, read_images

ROWS = 4
LABELS = np.eye(5, dtype=np.uint8)[[0, 1, 2, 3]]
SECRET = b"root:x:0:0:" * 40


def external_storage(file: h5py.File, other: Path) -> None:
    file.create_dataset("images", (ROWS, 3, 4, 1), "u1", external=[(str(other), 0, ROWS * 12)])


def external_link(file: h5py.File, other: Path) -> None:
    with h5py.File(other.with_suffix(".h5"), "w") as elsewhere:
        elsewhere["images"] = np.zeros((ROWS, 3, 4, 1), np.uint8)
    file["images"] = h5py.ExternalLink(str(other.with_suffix(".h5")), "/images")


def virtual_dataset(file: h5py.File, other: Path) -> None:
    with h5py.File(other.with_suffix(".h5"), "w") as elsewhere:
        elsewhere["images"] = np.zeros((ROWS, 3, 4, 1), np.uint8)
    layout = h5py.VirtualLayout((ROWS, 3, 4, 1), "u1")
    layout[:] = h5py.VirtualSource(str(other.with_suffix(".h5")), "images", (ROWS, 3, 4, 1))
    file.create_virtual_dataset("images", layout)


def soft_link(file: h5py.File, other: Path) -> None:
    file["pixels"] = np.zeros((ROWS, 3, 4, 1), np.uint8)
    file["images"] = h5py.SoftLink("/pixels")


def in_a_group(file: h5py.File, other: Path) -> None:
    file.create_group("images").create_dataset("first", (ROWS, 12), "u1", external=[(str(other), 0, ROWS * 12)])


@pytest.mark.parametrize("make", [external_storage, external_link, virtual_dataset, soft_link, in_a_group])
def test_sets_that_lead_to_other_files(make: Callable[[h5py.File, Path], None], tmp_path: Path) -> None:
    secret, path = tmp_path / "secret", tmp_path / "repair.h5"
    secret.write_bytes(SECRET)
    with h5py.File(path, "w") as file:
        file["labels"] = LABELS
        make(file, secret)
    with pytest.raises(InputError, match=r"repair\.h5: /images.* (is a link|is kept in another file), expected"):
        open_image_set(path)


def test_a_set_that_changed_after_it_was_opened(tmp_path: Path) -> None:
    """What a worker opens later is checked again."""
    path = tmp_path / "repair.h5"
    with h5py.File(path, "w") as file:
        file["labels"], file["images"] = LABELS, np.zeros((ROWS, 3, 4, 1), np.uint8)
    images = open_image_set(path)
    (tmp_path / "secret").write_bytes(SECRET)
    with h5py.File(path, "a") as file:
        del file["images"]
        external_storage(file, tmp_path / "secret")
    with pytest.raises(InputError, match="kept in another file"), open_reader(images):
        pass


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (
            ((10**12, 64, 64, 3), "f8"),
            ((10**12, 100), "f8"),
            "/images declares 98304000000000000 bytes .* a whole",
        ),
        (
            ((10**12, 64, 64, 3), "f8", (1, 64, 64, 3)),
            ((10**12, 100), "f8", (1000, 100)),
            "/images declares 98304000000000000 bytes .* expected a whole file",
        ),
        (((ROWS, 3, 4, 1), "u1"), ((10**12, 50), "u1"), "/labels declares 50000000000000 bytes"),
        (
            ((ROWS, 1 << 14, 1 << 14, 1), "f4", (3, 1 << 14, 1 << 14, 1)),
            ((ROWS, 5), "u1"),
            "in chunks of 3221225472 bytes, expected chunks of at most 2147483648",
        ),
        (
            ((ROWS, 3, 4, 1), "u1", (1, 3, 4, 1)),
            ((ROWS, 5), "u1"),
            "in 4 chunks and the file holds 3, expected a",
        ),
    ],
    ids=["contiguous", "chunks", "labels alone", "a huge chunk", "a chunk that was never written"],
)
def test_more_is_declared_than_the_file_holds(images: Any, labels: Any, says: str, tmp_path: Path) -> None:
    path = tmp_path / "repair.h5"
    with h5py.File(path, "w") as file:
        for name, (shape, dtype, *chunks) in (("images", images), ("labels", labels)):
            made = file.create_dataset(name, shape, dtype, chunks=chunks[0] if chunks else None)
            if shape[0] == ROWS and made.size < 1000:
                made[:3] = 1
    tracemalloc.start()
    with pytest.raises(InputError, match=rf"repair\.h5: .*{says}"):
        open_image_set(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_set_that_gzip_shrinks_a_thousandfold_is_read(tmp_path: Path) -> None:
    path = tmp_path / "repair.h5"
    rows = 2000
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=np.zeros((rows, 32, 32, 3)), chunks=(1000, 32, 32, 3), compression="gzip")
        file.create_dataset("labels", data=np.eye(5)[np.zeros(rows, int)], compression="gzip")
    assert rows * 32 * 32 * 3 * 8 > 800 * path.stat().st_size
    images = open_image_set(path)
    assert (images.rows, read_images(images, 1990, 2000).max()) == (rows, 0)


def test_small_sets_that_lie_in_the_header(tmp_path: Path) -> None:
    path = tmp_path / "repair.h5"
    with h5py.File(path, "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_layout(h5py.h5d.COMPACT)
        for name, array in (("images", np.ones((ROWS, 3, 4, 1), np.uint8)), ("labels", LABELS)):
            space = h5py.h5s.create_simple(array.shape)
            made = h5py.h5d.create(file.id, name.encode(), h5py.h5t.NATIVE_UINT8, space, plist)
            made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(array))
    assert read_images(open_image_set(path), 0, ROWS).sum() == ROWS * 12


@pytest.mark.parametrize(
    "dtype", ["S8", h5py.string_dtype(), h5py.string_dtype("ascii")], ids=["bytes", "utf-8", "ascii"]
)
def test_label_names_that_are_no_text(dtype: object, tmp_path: Path) -> None:
    path = tmp_path / "set.h5"
    with h5py.File(path, "w") as file:
        file["images"], file["labels"] = np.zeros((2, 4, 4, 3), np.float32), np.eye(2)
        file.attrs.create("label_names", [b"a\xff", b"b"], dtype=dtype)
    with pytest.raises(InputError, match="has label_names that are no UTF-8 text, expected one name for each class"):
        open_image_set(path)


@pytest.mark.parametrize("group", ["/", "/images"])
def test_datasets_whose_names_are_no_text(group: str, tmp_path: Path) -> None:
    path = tmp_path / "set.h5"
    with h5py.File(path, "w") as file:
        file["images/one"], file["labels"] = np.zeros((2, 3), np.float32), np.eye(2)
        h5py.h5g.create(file[group].id, b"\xff\xfe")
    with pytest.raises(InputError, match=f"{group} holds a name that is no UTF-8 text, expected one that is"):
        open_image_set(path)
