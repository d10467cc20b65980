from __future__ import annotations

import fcntl
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core.errors import InputError
from engine.core.files import replace_directory, replace_file
from engine.data import image_set as imagesets
from engine.data.row_digests import content_fingerprint, row_digests, rows_fingerprint
from engine.data.writer import float_dtype, write_empty_image_set, write_image_set
from tests.support.prepare import one_sentence


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
    "numbers": (np.zeros(2), one_hot([1, 2]), "images have shape (2,)"),
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
    with one_sentence(path, found):
        imagesets.open_image_set(path)


def test_a_bad_label_row_is_found_in_a_later_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagesets, "_LABEL_BLOCK_ROWS", 10)
    labels = one_hot(np.arange(35) % 5)
    found = imagesets.open_image_set(write_raw(tmp_path / "a.h5", pixels(35), labels))
    assert found.labels.tolist() == [i % 5 for i in range(35)]
    labels[27] = 0
    with pytest.raises(InputError, match="row 27 of labels"):
        imagesets.open_image_set(write_raw(tmp_path / "b.h5", pixels(35), labels))


def test_what_is_not_a_whole_hdf5_file(tmp_path: Path) -> None:
    text, cut = tmp_path / "text.h5", tmp_path / "cut.h5"
    text.write_text("not HDF5")
    whole = write_raw(tmp_path / "whole.h5", pixels(500), one_hot([0] * 500)).read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    for path, found in (
        (tmp_path / "missing.h5", "does not exist"),
        (tmp_path, "is a folder"),
        (text, "is not an HDF5 file"),
        (cut, "is damaged or cut short"),
    ):
        with one_sentence(path, found):
            imagesets.open_image_set(path)


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
        lambda: content_fingerprint(found),
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


def test_reads_where_locks_cannot_be_had_and_nothing_can_be_written(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "a.h5", pixels(3), one_hot([0, 1, 2]))
    path.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        with path.open() as holder:
            fcntl.flock(holder, fcntl.LOCK_EX)
            with pytest.raises(OSError, match="lock"):
                h5py.File(path, "r", locking=True)
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
    content_fingerprint(found)
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
    for shape in ((4, 4, 2), (24,), (None, None, 3), (None, 3, 2, 1)):
        with pytest.raises(InputError, match=r"shape \(4, 3, 2\), the model m.keras expects"):
            imagesets.check_fits_model(found, shape, 5, model)
    with pytest.raises(InputError, match=r"5 classes, the model m.keras has 10"):
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
        return content_fingerprint(imagesets.open_image_set(path))

    assert fingerprint(plain) == fingerprint(other)
    assert len(fingerprint(plain)) == 64
    assert fingerprint(write_raw(tmp_path / "e.h5", images[::-1], labels[::-1])) == fingerprint(plain)


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
    with pytest.raises(error), write_image_set(path, rows=2, image_shape=(4, 3, 2), classes=5) as writer:
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
    assert len(content_fingerprint(empty)) == 64


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


# Rows that are no pictures


@pytest.mark.parametrize("shape", [(7,), (7, 2), (2, 3, 4, 5)])
def test_rows_of_any_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images = pixels(1500, shape)
    found = imagesets.open_image_set(write_raw(tmp_path / "a.h5", images, one_hot([1] * 1500)))
    assert (found.image_shape, found.inputs, imagesets.is_pictures(found)) == (shape, (), False)
    assert np.array_equal(imagesets.read_images(found, 3, 9), images[3:9])
    rows = np.array([0, 40, 1499])
    assert np.array_equal(imagesets.read_rows(found, rows), images[rows])
    digests = row_digests(images)
    assert content_fingerprint(found) == rows_fingerprint(shape, 5, found.labels, digests)
    imagesets.check_fits_model(found, shape, 5, Path("m"))
    with pytest.raises(InputError, match=r"holds rows of shape .*, the model m expects \(8,\)"):
        imagesets.check_fits_model(found, (8,), 5, Path("m"))
    images[7].flat[0] = np.nan
    found = imagesets.open_image_set(write_raw(tmp_path / "a.h5", images, one_hot([1] * 1500)))
    with pytest.raises(InputError, match="row 7 has numbers that are NaN, expected finite numbers"):
        imagesets.read_images(found, 0, 9)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint32", "uint64"])
def test_integers_that_float32_does_not_hold(tmp_path: Path, dtype: str) -> None:
    images = np.zeros((60, 4), dtype)
    images[3, 1] = 2**24
    images[40, 2] = 2**24 + 1
    if dtype.startswith("i"):
        images[5], images[50, 0] = -(2**24), -(2**24) - 1
    found = imagesets.open_image_set(write_raw(tmp_path / "a.h5", images, one_hot([0] * 60)))
    assert np.array_equal(imagesets.read_images(found, 0, 40), images[:40])
    for read in (
        lambda: imagesets.read_images(found, 30, 50),
        lambda: imagesets.read_rows(found, np.array([3, 40])),
        lambda: content_fingerprint(found),
    ):
        with pytest.raises(InputError, match=r"a\.h5: row 40 has 16777217, expected integers up to 16777216, which"):
            read()
    if dtype.startswith("i"):
        with pytest.raises(InputError, match="row 50 has -16777217,"):
            imagesets.read_images(found, 45, 60)


def test_the_fingerprint_of_pictures_is_frozen(tmp_path: Path) -> None:
    """Random numbers are keyed by it; these rows stand by digest, so that releases before rows were sorted agree."""
    images = np.arange(2 * 3 * 3 * 1, dtype=np.float32).reshape(2, 3, 3, 1) / 16
    found = imagesets.open_image_set(write_raw(tmp_path / "a.h5", images, one_hot([4, 1])))
    assert content_fingerprint(found) == "8edebe0f29a50c10d0e641e22c922092a6b1c7e5b1e0e7d518a72638ab896665"
    write_empty_image_set(tmp_path / "b.h5")
    found = imagesets.open_image_set(tmp_path / "b.h5", allow_empty=True)
    assert content_fingerprint(found) == "ebc5344f90d0678b469d0607c203d1fe77b9538e28fff309897d9c1ea9d2c3f3"


# Several inputs


def write_group(path: Path, inputs: dict[str, np.ndarray], labels: np.ndarray, *, ordered: bool = True) -> Path:
    """A set of several inputs as a user writes it, compressed."""
    with h5py.File(path, "w") as file:
        group = file.create_group("images", track_order=ordered)
        for name, values in inputs.items():
            group.create_dataset(name, data=values, chunks=(min(7, len(values)), *values.shape[1:]), compression="gzip")
        file["labels"] = labels
        file.attrs["preprocess"] = "tokens"
    return path


def question_and_answer(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "question": random.integers(0, 999, (rows, 5)).astype(np.int32),
        "answer": random.random((rows, 2, 3)),
        "flag": random.integers(0, 2, (rows, 1)).astype(bool),
    }


INPUTS = (("question", (5,)), ("answer", (2, 3)), ("flag", (1,)))


def packed(inputs: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([array.reshape(len(array), -1) for array in inputs.values()], axis=1).astype(np.float32)


def test_several_inputs_travel_as_one_vector(tmp_path: Path) -> None:
    inputs, labels = question_and_answer(1200), np.arange(1200) % 5
    found = imagesets.open_image_set(write_group(tmp_path / "a.h5", inputs, one_hot(labels)))
    assert (found.rows, found.image_shape, found.inputs, found.classes) == (1200, (12,), INPUTS, 5)
    assert not imagesets.is_pictures(found)
    expected = packed(inputs)
    block = imagesets.read_images(found, 0, 1200)
    assert block.dtype == np.float32
    assert np.array_equal(block, expected)
    rows = np.array([0, 0, 3, 500, 1199])
    assert np.array_equal(imagesets.read_rows(found, rows), expected[rows])
    digests = row_digests(expected)
    assert content_fingerprint(found) == rows_fingerprint((12,), 5, labels, digests)
    with imagesets.open_reader(found) as reader:
        assert reader.image_dtype == np.dtype([("question", "i4", (5,)), ("answer", "f8", (2, 3)), ("flag", "?", (1,))])
        images, stored_labels = reader.read_stored(10, 15)
    assert np.array_equal(stored_labels, one_hot(labels)[10:15])
    for name, values in inputs.items():
        assert images[name].dtype == values.dtype
        assert np.array_equal(images[name], values[10:15])


@pytest.mark.parametrize("how", ["as stored", "as they travel"])
def test_several_inputs_are_written_as_they_are_read(tmp_path: Path, how: str) -> None:
    inputs, labels = question_and_answer(9), np.arange(9) % 5
    found = imagesets.open_image_set(write_group(tmp_path / "a.h5", inputs, one_hot(labels)))
    with imagesets.open_reader(found) as reader:
        dtype = reader.image_dtype if how == "as stored" else float_dtype(found)
        with write_image_set(tmp_path / "b.h5", rows=9, image_shape=(12,), classes=5, image_dtype=dtype) as writer:
            for start in (4, 0):
                stop = {4: 9, 0: 4}[start]
                images, stored_labels = reader.read_stored(start, stop)
                writer.write(start, images if how == "as stored" else reader.read(start, stop), stored_labels)
    with h5py.File(tmp_path / "b.h5") as file:
        assert list(file["images"]) == list(inputs)
        for name, values in inputs.items():
            assert file["images"][name].dtype == (values.dtype if how == "as stored" else np.float32)
            assert np.array_equal(file["images"][name][...], values.astype(file["images"][name].dtype))
            assert file["images"][name].chunks is None
    again = imagesets.open_image_set(tmp_path / "b.h5")
    assert again.inputs == found.inputs
    assert content_fingerprint(again) == content_fingerprint(found)


def test_several_inputs_must_be_those_of_the_model_in_its_order(tmp_path: Path) -> None:
    inputs, model = question_and_answer(4), Path("m.keras")
    found = imagesets.open_image_set(write_group(tmp_path / "a.h5", inputs, one_hot([0] * 4)))
    imagesets.check_fits_model(found, (12,), 5, model, INPUTS)
    sorted_by_name = imagesets.open_image_set(write_group(tmp_path / "b.h5", inputs, one_hot([0] * 4), ordered=False))
    plain = imagesets.open_image_set(write_raw(tmp_path / "c.h5", packed(inputs), one_hot([0] * 4)))
    for images, wanted, says in (
        (
            sorted_by_name,
            INPUTS,
            "b.h5 holds the inputs answer (2, 3), flag (1,), question (5,), the model m.keras expects the inputs "
            "question (5,), answer (2, 3), flag (1,) in this order (h5py keeps the order of a group that was made with "
            "track_order=True)",
        ),
        (found, INPUTS[:2], "flag (1,), the model m.keras expects the inputs question (5,), answer (2, 3)"),
        (found, (INPUTS[0], ("answer", (3, 2)), INPUTS[2]), "answer (2, 3), flag (1,), the model m.keras expects"),
        (found, (), "flag (1,), the model m.keras expects one dataset of rows of shape (12,)"),
        (plain, INPUTS, "c.h5 holds rows of shape (12,), the model m.keras expects the inputs question (5,), answer"),
    ):
        with pytest.raises(InputError) as caught:
            imagesets.check_fits_model(images, (12,), 5, model, wanted)
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"5 classes, the model m\.keras has 4"):
        imagesets.check_fits_model(found, (12,), 4, model, INPUTS)


def test_bad_groups_are_one_sentence(tmp_path: Path) -> None:
    good, labels = question_and_answer(3), one_hot([0, 1, 2])
    bad: dict[str, tuple[dict[str, np.ndarray], str]] = {
        "no input": ({}, 'an empty group "images"'),
        "unequal": ({**good, "flag": good["flag"][:2]}, "has 2 images/flag and 3 labels"),
        "one number": ({**good, "flag": np.zeros(3)}, "images/flag have shape (3,)"),
        "words": ({**good, "flag": np.array([[b"x"], [b"y"], [b"z"]])}, '"images/flag" holds |S1, expected numbers'),
    }
    for inputs, says in bad.values():
        with one_sentence(says):
            imagesets.open_image_set(write_group(tmp_path / "a.h5", inputs, labels))
    with h5py.File(write_group(tmp_path / "a.h5", good, labels), "a") as file:
        file.create_group("images/more/inside")
    with pytest.raises(InputError, match='has no dataset "images/more"'):
        imagesets.open_image_set(tmp_path / "a.h5")
    good["answer"][1, 1, 2] = np.inf
    good["question"][2, 4] = 2**24 + 2
    found = imagesets.open_image_set(write_group(tmp_path / "a.h5", good, labels))
    with pytest.raises(InputError, match="row 1 has numbers in 'answer' that are infinite"):
        imagesets.read_rows(found, np.array([0, 1]))
    with pytest.raises(InputError, match="row 2 has 16777218 in 'question', expected integers up to"):
        imagesets.read_rows(found, np.array([0, 2]))


def test_a_group_without_rows(tmp_path: Path) -> None:
    path = write_group(tmp_path / "a.h5", question_and_answer(1), one_hot([1]))
    with h5py.File(path) as source, h5py.File(tmp_path / "b.h5", "w") as file:
        for name in source["images"]:
            file[f"images/{name}"] = source["images"][name][:0]
        file["labels"] = source["labels"][:0]
    with pytest.raises(InputError, match="0 rows"):
        imagesets.open_image_set(tmp_path / "b.h5")
    found = imagesets.open_image_set(tmp_path / "b.h5", allow_empty=True)
    assert (found.rows, found.image_shape, found.classes) == (0, (12,), 5)
    assert imagesets.read_images(found, 0, 0).shape == (0, 12)
    assert len(content_fingerprint(found)) == 64
