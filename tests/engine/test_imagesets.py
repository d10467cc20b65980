"""Reading, checking and writing image sets."""

from __future__ import annotations

import fcntl
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import imagesets
from engine.errors import InputError
from engine.files import replace_directory, replace_file
from engine.imageset_writer import write_empty_image_set, write_image_set


def write_raw(path: Path, images: object, labels: object, **attributes: object) -> Path:
    with h5py.File(path, "w") as file:
        if images is not None:
            file["images"] = images
        if labels is not None:
            file["labels"] = labels
        file.attrs.update(attributes)
    return path


def pixels(rows: int, shape: tuple[int, ...] = (4, 3, 2), dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(rows).random((rows, *shape)).astype(dtype)


def one_hot(labels: list[int] | np.ndarray, classes: int = 5, dtype: str = "uint8") -> np.ndarray:
    return np.eye(classes, dtype=dtype)[np.asarray(labels, int)]


def test_opens_a_toolkit_file_with_further_datasets(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "repair.h5", pixels(3, dtype="float64"), one_hot([4, 0, 2], dtype="float32"))
    with h5py.File(path, "a") as file:
        file["image_ids"] = [b"a", b"b", b"c"]
    found = imagesets.open_image_set(path)
    assert (found.path, found.rows, found.image_shape, found.classes) == (path, 3, (4, 3, 2), 5)
    assert found.labels.dtype == np.int64
    assert found.labels.tolist() == [4, 0, 2]
    assert found.label_names is None
    assert found.preprocess is None


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float16", "float32", "float64", ">f4"])
def test_any_numeric_dtype_is_read_as_float32(tmp_path: Path, dtype: str) -> None:
    images = (pixels(6) * 200).astype(dtype)
    found = imagesets.open_image_set(write_raw(tmp_path / "a.h5", images, one_hot([0] * 6)))
    block = imagesets.read_images(found, 2, 5)
    assert block.dtype == np.float32
    assert np.array_equal(block, images[2:5].astype(np.float32))


BAD = {
    "no images": (None, one_hot([1, 2]), 'no dataset "images"'),
    "no labels": (pixels(2), None, 'no dataset "labels"'),
    "scalar images": (3.0, one_hot([1, 2]), 'no dataset "images"'),
    "unequal": (pixels(3), one_hot([1, 2]), "3 images and 2 labels"),
    "empty": (pixels(0), one_hot([]), "0 rows"),
    "flat images": (np.zeros((2, 12)), one_hot([1, 2]), "shape (2, 12)"),
    "text images": (np.array([b"x", b"y"]), one_hot([1, 2]), "expected numbers"),
    "integer labels": (pixels(2), np.array([1, 2]), "shape (2,)"),
    "two ones": (pixels(2), [[0, 1], [1, 1]], "row 1 of labels"),
    "no one": (pixels(2), [[0, 0], [1, 0]], "row 0 of labels"),
    "a two": (pixels(2), [[1, 0], [0, 2]], "row 1 of labels"),
    "a share": (pixels(2), [[1.0, 0.0], [0.5, 0.5]], "row 1 of labels"),
    "NaN label": (pixels(2), [[1.0, 0.0], [1.0, np.nan]], "row 1 of labels"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_content_is_one_sentence(tmp_path: Path, case: str) -> None:
    images, labels, found = BAD[case]
    path = write_raw(tmp_path / "bad.h5", images, labels)
    with pytest.raises(InputError) as caught:
        imagesets.open_image_set(path)
    message = str(caught.value)
    assert str(path) in message
    assert found in message
    assert "expected" in message
    assert "\n" not in message


def test_a_bad_label_row_is_found_in_a_later_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagesets, "_LABEL_BLOCK_ROWS", 10)
    labels = one_hot(np.arange(35) % 5)
    found = imagesets.open_image_set(write_raw(tmp_path / "a.h5", pixels(35), labels))
    assert found.labels.tolist() == [i % 5 for i in range(35)]
    labels[27] = 0
    with pytest.raises(InputError, match="row 27 of labels"):
        imagesets.open_image_set(write_raw(tmp_path / "b.h5", pixels(35), labels))


def test_what_is_not_a_whole_hdf5_file(tmp_path: Path) -> None:
    missing, text, cut = tmp_path / "missing.h5", tmp_path / "text.h5", tmp_path / "cut.h5"
    text.write_text("not HDF5")
    whole = write_raw(tmp_path / "whole.h5", pixels(500), one_hot([0] * 500)).read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    for path, found in (
        (missing, "does not exist"),
        (tmp_path, "is a folder"),
        (text, "is not an HDF5 file"),
        (cut, "is damaged or cut short"),
    ):
        with pytest.raises(InputError, match=found) as caught:
            imagesets.open_image_set(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_damaged_compressed_rows_are_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=pixels(64), chunks=(16, 4, 3, 2), compression="gzip")
        file["labels"] = one_hot([0] * 64)
        chunk = file["images"].id.get_chunk_info(2)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    found = imagesets.open_image_set(path)
    assert imagesets.read_images(found, 0, 32).shape == (32, 4, 3, 2)
    with pytest.raises(InputError, match=r"rows 30 to 40 cannot be read"):
        imagesets.read_images(found, 30, 40)


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinite"), (1e39, "infinite")])
def test_pixels_that_are_not_finite_name_the_row(tmp_path: Path, value: float, word: str) -> None:
    images = pixels(50, dtype="float64")
    images[33, 1, 2, 0] = value
    found = imagesets.open_image_set(write_raw(tmp_path / "a.h5", images, one_hot([0] * 50)))
    assert imagesets.read_images(found, 0, 33).shape[0] == 33
    for read in (
        lambda: imagesets.read_images(found, 30, 40),
        lambda: imagesets.read_rows(found, np.array([2, 33, 49])),
        lambda: imagesets.content_fingerprint(found),
    ):
        with pytest.raises(InputError, match=f"row 33 .*{word}"):
            read()
    assert imagesets.read_rows(found, np.array([32, 34])).shape[0] == 2, "only the rows asked for are judged"


@settings(deadline=None, max_examples=30)
@given(rows=st.lists(st.integers(0, 2999), max_size=60))
def test_read_rows_equals_indexing(tmp_path_factory: pytest.TempPathFactory, rows: list[int]) -> None:
    path = tmp_path_factory.getbasetemp() / "rows.h5"
    images = pixels(3000, (2, 1, 1))
    if not path.exists():
        write_raw(path, images, one_hot([0] * 3000))
    indices = np.sort(np.array(rows, np.int64))
    found = imagesets.open_image_set(path)
    assert np.array_equal(imagesets.read_rows(found, indices), images[indices])


def test_read_rows_spanning_many_blocks_and_refusing_disorder(tmp_path: Path) -> None:
    images = pixels(3000, (2, 1, 1))
    found = imagesets.open_image_set(write_raw(tmp_path / "a.h5", images, one_hot([0] * 3000)))
    with imagesets.open_reader(found) as reader:
        assert np.array_equal(reader.read_rows(np.arange(1, 3000, 2)), images[1::2])
        with pytest.raises(ValueError, match="ascending"):
            reader.read_rows(np.array([5, 4]))
        with pytest.raises(IndexError):
            reader.read(2990, 3001)


def test_opens_where_locks_cannot_be_had(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "a.h5", pixels(3), one_hot([0, 1, 2]))
    with path.open() as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="lock"):
            h5py.File(path, "r", locking=True)
        assert imagesets.open_image_set(path).rows == 3


def test_reads_from_a_read_only_folder(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "a.h5", pixels(3), one_hot([0, 1, 2]))
    path.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        assert imagesets.read_images(imagesets.open_image_set(path), 0, 3).shape == (3, 4, 3, 2)
    finally:
        tmp_path.chmod(0o755)


def test_reading_a_large_set_holds_one_block(tmp_path: Path) -> None:
    rows, shape = 20_000, (16, 16, 3)
    path = tmp_path / "large.h5"
    with write_image_set(path, rows=rows, image_shape=shape, classes=10) as writer:
        block = pixels(1000, shape)
        for _ in range(0, rows, 1000):
            writer.append(block, one_hot(np.arange(1000) % 10, 10))
    tracemalloc.start()
    found = imagesets.open_image_set(path)
    imagesets.content_fingerprint(found)
    imagesets.read_rows(found, np.arange(0, rows, 100))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 60e6
    assert peak < 15e6


def test_check_fits_model(tmp_path: Path) -> None:
    found = imagesets.open_image_set(write_raw(tmp_path / "a.h5", pixels(2), one_hot([0, 1])))
    model = Path("m.keras")
    imagesets.check_fits_model(found, (4, 3, 2), 5, model)
    imagesets.check_fits_model(found, (None, None, 2), 5, model)
    for shape in ((4, 4, 2), (24,), (None, None, 3)):
        with pytest.raises(InputError, match=r"shape \(4, 3, 2\); the model m.keras expects"):
            imagesets.check_fits_model(found, shape, 5, model)
    with pytest.raises(InputError, match=r"5 classes; the model m.keras has 10"):
        imagesets.check_fits_model(found, (4, 3, 2), 10, model)


def test_fingerprint_depends_on_content_alone(tmp_path: Path) -> None:
    images, labels = pixels(2500), one_hot(np.arange(2500) % 5)
    plain = write_raw(tmp_path / "a.h5", images, labels)
    other = tmp_path / "b.h5"
    with h5py.File(other, "w") as file:
        file.create_dataset("images", data=images.astype("float64"), chunks=(7, 4, 3, 2), compression="gzip")
        file["labels"] = labels.astype("float32")
        file.attrs["preprocess"] = "pad"

    def fingerprint(path: Path) -> str:
        return imagesets.content_fingerprint(imagesets.open_image_set(path))

    assert fingerprint(plain) == fingerprint(other)
    assert len(fingerprint(plain)) == 64
    changed = images.copy()
    changed[2400, 0, 0, 0] += 1
    seen = {
        fingerprint(plain),
        fingerprint(write_raw(tmp_path / "c.h5", changed, labels)),
        fingerprint(write_raw(tmp_path / "d.h5", images, labels[::-1])),
        fingerprint(write_raw(tmp_path / "e.h5", images[::-1], labels)),
        fingerprint(write_raw(tmp_path / "f.h5", images.reshape(2500, 3, 4, 2), labels)),
    }
    assert len(seen) == 5


@settings(max_examples=60)
@given(st.data(), st.integers(1, 12))
def test_the_digest_of_a_row_is_of_its_pixels_alone(data: st.DataObject, count: int) -> None:
    images = pixels(count)
    whole = imagesets.row_digests(images)
    assert whole.shape == (count, 16)
    assert whole.dtype == np.uint8
    assert len({row.tobytes() for row in whole}) == count
    order = np.array(data.draw(st.permutations(range(count))))
    cut = data.draw(st.integers(0, count))
    parts = [
        imagesets.row_digests(images[order][part]) for part in (slice(0, cut), slice(cut, None)) if len(order[part])
    ]
    assert np.array_equal(np.concatenate(parts), whole[order])
    flat = tuple(data.draw(st.integers(0, size - 1)) for size in images.shape)
    changed = images.copy()
    changed[flat] = np.nextafter(changed[flat], np.float32(9))
    different = (imagesets.row_digests(changed) != whole).any(axis=1)
    assert np.flatnonzero(different).tolist() == [flat[0]]


def test_digests_are_of_values_however_they_lie_in_memory() -> None:
    images = pixels(5)
    expected = imagesets.row_digests(images)
    for same in (
        images.astype(">f4"),
        images.astype("float64"),
        np.asfortranarray(images),
        images[:, :, :, ::-1][..., ::-1],
    ):
        assert np.array_equal(imagesets.row_digests(same), expected)
    assert np.array_equal(imagesets.row_digests(images.reshape(5, 24, 1, 1)), expected)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 30), max_size=5), st.data())
def test_the_fingerprint_of_rows_does_not_depend_on_their_blocks(cuts: list[int], data: st.DataObject) -> None:
    labels = np.arange(30) % 5
    digests = imagesets.row_digests(pixels(30))
    whole = imagesets.rows_fingerprint((4, 3, 2), 5, labels, [digests])
    assert imagesets.rows_fingerprint((4, 3, 2), 5, labels, np.split(digests, sorted(cuts))) == whole
    order = np.array(data.draw(st.permutations(range(30))))
    moved = imagesets.rows_fingerprint((4, 3, 2), 5, labels[order], [digests[order]])
    assert (moved == whole) == np.array_equal(order, np.arange(30))


def test_what_the_fingerprint_of_rows_tells_apart() -> None:
    labels = np.arange(6) % 5
    digests = imagesets.row_digests(pixels(6))
    other = labels.copy()
    other[3] = 0
    seen = {
        imagesets.rows_fingerprint((4, 3, 2), 5, labels, [digests]),
        imagesets.rows_fingerprint((3, 4, 2), 5, labels, [digests]),
        imagesets.rows_fingerprint((4, 3, 2), 6, labels, [digests]),
        imagesets.rows_fingerprint((4, 3, 2), 5, other, [digests]),
        imagesets.rows_fingerprint((4, 3, 2), 5, labels, [digests[::-1]]),
        imagesets.rows_fingerprint((4, 3, 2), 5, labels[:5], [digests[:5]]),
        imagesets.rows_fingerprint((4, 3, 2), 5, labels[:0], []),
    }
    assert len(seen) == 7


def test_a_file_has_the_fingerprint_of_its_rows(tmp_path: Path) -> None:
    """2,500 rows: more than one block is read."""
    images = (pixels(2500) * 200).astype("uint8")
    labels = np.random.default_rng(0).integers(0, 5, 2500)
    found = imagesets.open_image_set(write_raw(tmp_path / "a.h5", images, one_hot(labels)))
    digests = imagesets.row_digests(images.astype(np.float32))
    assert imagesets.content_fingerprint(found) == imagesets.rows_fingerprint((4, 3, 2), 5, labels, [digests])


def test_written_set_reads_back_with_its_attributes(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.h5"
    names = ("T-shirt/top", "Straße", "c", "d", "e")
    images, labels = pixels(7, dtype="float64"), one_hot([0, 1, 2, 3, 4, 0, 1], dtype="float32")
    with write_image_set(
        path,
        rows=7,
        image_shape=(4, 3, 2),
        classes=5,
        image_dtype="float64",
        label_dtype="float32",
        label_names=names,
        preprocess="pad",
    ) as writer:
        writer.append(images[:4], labels[:4])
        writer.append(images[4:], labels[4:])
        assert not path.exists()
    found = imagesets.open_image_set(path)
    assert (found.label_names, found.preprocess) == (names, "pad")
    with h5py.File(path) as file:
        assert file["images"].dtype == np.float64
        assert file["labels"].dtype == np.float32
        assert file["images"].chunks is None
        assert np.array_equal(file["images"][:], images)
        assert np.array_equal(file["labels"][:], labels)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_writer_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = write_raw(tmp_path / "a.h5", pixels(2), one_hot([0, 1]))
    before = path.read_bytes()
    with (
        pytest.raises(error),
        write_image_set(path, rows=2, image_shape=(4, 3, 2), classes=5) as writer,
    ):
        writer.append(pixels(1), one_hot([0]))
        raise error
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_missing_rows_are_not_published(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="1 of 2 rows"),
        write_image_set(tmp_path / "a.h5", rows=2, image_shape=(4, 3, 2), classes=5) as writer,
    ):
        writer.append(pixels(1), one_hot([0]))
    assert list(tmp_path.iterdir()) == []


def test_wrong_number_of_label_names(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "a.h5", pixels(2), one_hot([0, 1]), label_names=["a", "b"])
    with pytest.raises(InputError, match="names 2 labels"):
        imagesets.open_image_set(path)


def test_empty_set_only_where_allowed(tmp_path: Path) -> None:
    path = tmp_path / "repair.h5"
    write_empty_image_set(path)
    with h5py.File(path) as file:
        assert (file["images"].shape, file["images"].dtype) == ((0,), np.float64)
        assert (file["labels"].shape, file["labels"].dtype) == ((0,), np.float64)
    with pytest.raises(InputError, match="0 rows"):
        imagesets.open_image_set(path)
    empty = imagesets.open_image_set(path, allow_empty=True)
    assert (empty.rows, empty.classes, len(empty.labels)) == (0, 0, 0)
    assert len(imagesets.content_fingerprint(empty)) == 64


def test_replace_file_and_directory(tmp_path: Path) -> None:
    file, folder = tmp_path / "x" / "chart.png", tmp_path / "y" / "tree"
    with replace_file(file) as temporary:
        assert (temporary.parent, temporary.suffix) == (file.parent, ".png")
        temporary.write_text("new")
    with replace_directory(folder) as temporary:
        (temporary / "a").write_text("1")
    with replace_directory(folder) as temporary:
        (temporary / "b").write_text("2")
        assert [p.name for p in folder.iterdir()] == ["a"]
    assert [p.name for p in folder.iterdir()] == ["b"]
    for error in (OSError, KeyboardInterrupt):
        with pytest.raises(error), replace_file(file) as temporary:
            temporary.write_text("half")
            raise error
        with pytest.raises(error), replace_directory(folder) as temporary:
            (temporary / "c").write_text("half")
            raise error
    assert file.read_text() == "new"
    assert [p.name for p in folder.iterdir()] == ["b"]
    assert len(list(file.parent.iterdir())) == len(list(folder.parent.iterdir())) == 1
