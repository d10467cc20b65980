from __future__ import annotations

import shutil
import tempfile
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core.errors import InputError
from engine.data.image_set import open_image_set, open_reader
from engine.data.outcomes import LabelTargets, open_negatives, open_positives, write_targets
from engine.data.writer import write_image_set

CLASSES = 13


def make_set(path: Path, labels: list[int], dtype: str = "float64") -> Path:
    """A set whose pixel [0, 0, 0] is the number of the row."""
    images = np.zeros((len(labels), 2, 2, 1), dtype)
    images[:, 0, 0, 0] = np.arange(len(labels))
    with h5py.File(path, "w") as file:
        file["images"] = images
        file["labels"] = np.eye(CLASSES, dtype="float32")[labels]
        file["image_ids"] = [f"id{i}" for i in range(len(labels))]
        file.attrs["label_names"] = [f"name {i}" for i in range(CLASSES)]
        file.attrs["preprocess"] = "toolkit"
    return path


def run(folder: Path, labels: list[int], predicted: list[int], **options: bool):  # type: ignore[no-untyped-def]
    source = open_image_set(make_set(folder / "repair.h5", labels))
    return write_targets(source, np.array(predicted, np.int64), folder, **options)


def rows(path: Path) -> list[int]:
    with h5py.File(path) as file:
        assert set(file) == {"images", "labels"}
        return [int(v) for v in file["images"][:, 0, 0, 0]]


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()}


#           0   1  2   3  4  5  6   7  8  9
LABELS = [11, 2, 11, 2, 7, 2, 11, 7, 2, 11]
PREDICTED = [11, 5, 3, 2, 7, 12, 3, 11, 5, 2]


def test_the_trees_of_the_toolkit(tmp_path: Path) -> None:
    summary = run(tmp_path, LABELS, PREDICTED)
    assert files(tmp_path / "positive") == {
        "repair.h5", "labels.json", "11/repair.h5", "2/repair.h5", "7/repair.h5"
    }  # fmt: skip
    assert files(tmp_path / "negative") == {
        "repair.h5", "labels.json",
        "2/repair.h5", "2/labels.json", "2/5/repair.h5", "2/12/repair.h5",
        "11/repair.h5", "11/labels.json", "11/3/repair.h5", "11/2/repair.h5",
        "7/repair.h5", "7/labels.json", "7/11/repair.h5",
    }  # fmt: skip
    negative, positive = tmp_path / "negative", tmp_path / "positive"
    assert rows(positive / "repair.h5") == [0, 3, 4]
    assert rows(positive / "2" / "repair.h5") == [3]
    assert rows(negative / "2" / "5" / "repair.h5") == [1, 8]
    assert rows(negative / "2" / "12" / "repair.h5") == [5]
    assert rows(negative / "2" / "repair.h5") == [1, 8, 5]
    assert rows(negative / "11" / "repair.h5") == [2, 6, 9]
    assert rows(negative / "repair.h5") == [1, 8, 5, 2, 6, 9, 7]
    assert (summary.rows, summary.correct) == (10, 3)
    assert summary.labels == (LabelTargets(2, 4, 3), LabelTargets(7, 2, 1), LabelTargets(11, 4, 3))


def test_labels_json_text_and_stored_types(tmp_path: Path) -> None:
    run(tmp_path, LABELS, PREDICTED)
    entry = '{\n            "repair_priority": 0,\n            "prevent_degradation": 0\n        }'
    for path, keys in (
        ("positive/labels.json", ["11", "2", "7"]),
        ("negative/labels.json", ["11", "2", "7"]),
        ("negative/2/labels.json", ["12", "5"]),
    ):
        inner = ",\n".join(f'    [\n        "{key}",\n        {entry}\n    ]' for key in keys)
        assert (tmp_path / path).read_bytes() == f"[\n{inner}\n]".encode()
    for path in (tmp_path / "negative").rglob("*.h5"):
        with h5py.File(path) as file:
            assert (file["images"].dtype, file["labels"].dtype) == (np.float64, np.float32)
            assert file["images"].chunks is None
        found = open_image_set(path)
        assert found.preprocess == "toolkit"
        assert found.label_names is not None
        assert found.label_names[12] == "name 12"
    assert open_image_set(tmp_path / "negative/2/5/repair.h5").labels.tolist() == [2, 2]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
def test_targets_partition_the_rows(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = [t for t, _ in pairs], [p for _, p in pairs]
    with tempfile.TemporaryDirectory() as name:
        summary = run(Path(name), labels, predicted)
        leaves: dict[tuple[int, int], list[int]] = {}
        for path in Path(name, "positive").glob("*/repair.h5"):
            leaves[int(path.parent.name), int(path.parent.name)] = rows(path)
        for path in Path(name, "negative").glob("*/*/repair.h5"):
            leaves[int(path.parent.parent.name), int(path.parent.name)] = rows(path)
        joined = [
            value
            for side in ("positive", "negative")
            if open_image_set(Path(name, side, "repair.h5"), allow_empty=True).rows
            for value in rows(Path(name, side, "repair.h5"))
        ]
    expected: dict[tuple[int, int], list[int]] = {}
    for row, pair in enumerate(pairs):
        expected.setdefault(pair, []).append(row)
    assert leaves == expected
    assert sorted(joined) == list(range(len(pairs)))
    assert summary.correct == sum(t == p for t, p in pairs)
    assert sum(label.total for label in summary.labels) == len(pairs)
    assert sum(label.wrong for label in summary.labels) == len(pairs) - summary.correct


def test_more_rows_than_one_block_and_little_memory(tmp_path: Path) -> None:
    count, shape = 12_000, (16, 16, 3)
    random = np.random.default_rng(0)
    labels, predicted = random.integers(0, 10, count), random.integers(0, 10, count)
    with write_image_set(tmp_path / "repair.h5", rows=count, image_shape=shape, classes=10) as writer:
        for start in range(0, count, 1000):
            block = np.zeros((1000, *shape), np.float32)
            block[:, 0, 0, 0] = np.arange(start, start + 1000)
            writer.append(block, np.eye(10, dtype=np.uint8)[labels[start : start + 1000]])
    source = open_image_set(tmp_path / "repair.h5")
    tracemalloc.start()
    write_targets(source, predicted, tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 15e6, "a whole set is 37 MB"
    for true in range(10):
        assert (
            rows(tmp_path / f"positive/{true}/repair.h5")
            == np.flatnonzero((labels == true) & (predicted == true)).tolist()
        )
    wrong = rows(tmp_path / "negative/repair.h5")
    assert sorted(wrong) == np.flatnonzero(labels != predicted).tolist()
    assert open_image_set(tmp_path / "negative/repair.h5").labels.tolist() == labels[wrong].tolist()


@pytest.mark.parametrize(("side", "other"), [("negative", "positive"), ("positive", "negative")])
def test_a_side_without_rows(tmp_path: Path, side: str, other: str) -> None:
    run(tmp_path, [1, 1, 2], [1, 1, 2] if side == "negative" else [2, 3, 1])
    with h5py.File(tmp_path / side / "repair.h5") as file:
        for name in ("images", "labels"):
            assert (file[name].shape, file[name].dtype) == ((0,), np.float64)
    assert (tmp_path / side / "labels.json").read_text() == "[]"
    assert files(tmp_path / side) == {"repair.h5", "labels.json"}
    assert len(rows(tmp_path / other / "repair.h5")) == 3
    if side == "negative":
        assert open_negatives(tmp_path / "negative" / "1") is None
        assert open_negatives(tmp_path / "negative") is None
    else:
        assert open_positives(tmp_path / "positive") is None


def test_running_again_keeps_models_and_drops_what_is_outdated(tmp_path: Path) -> None:
    run(tmp_path, LABELS, PREDICTED)
    negative = tmp_path / "negative"
    kept = {
        "2/repair/saved_model.pb": "model of 2",
        "2/repair/variables/repair.h5": "not ours: inside a model",
        "2/5/repair/model.keras": "model of 2 taken for 5",
        "repair/model.keras": "model of all",
        "11/repair/weights.csv": "inside a model",
        "11/notes.txt": "mine",
        "7/11/3/anything": "deeper than target writes",
    }
    for name, text in kept.items():
        (negative / name).parent.mkdir(parents=True, exist_ok=True)
        (negative / name).write_text(text)
    (negative / "2" / "latest").symlink_to("repair")
    (tmp_path / "positive" / "keep").write_text("mine")
    for name in ("2/weights.csv", "2/pareto_front.png", "11/weights.csv", "weights.csv"):
        (negative / name).write_text("of other rows")

    run(tmp_path, LABELS, [11, 5, 11, 2, 7, 2, 11, 7, 2, 11])  # only row 1 is wrong now
    targets = {"repair.h5", "labels.json", "2/repair.h5", "2/labels.json", "2/5/repair.h5"}
    assert files(negative) == targets | set(kept) | {"2/latest"}
    for name, text in kept.items():
        assert (negative / name).read_text() == text
    assert (negative / "2" / "latest").readlink() == Path("repair")
    assert (tmp_path / "positive" / "keep").read_text() == "mine"
    assert rows(negative / "repair.h5") == [1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["negative", "positive", "repair.h5"]
    assert open_negatives(negative / "11") is None


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "negative").mkdir()
    run(tmp_path, LABELS, PREDICTED)  # an empty folder is no one's
    shutil.rmtree(tmp_path / "negative")
    (tmp_path / "negative").mkdir()
    (tmp_path / "negative" / "film.raw").write_text("photographs")
    before = files(tmp_path)
    with pytest.raises(InputError, match=r"negative was not made by target"):
        run(tmp_path, LABELS, PREDICTED)
    assert files(tmp_path) == before
    run(tmp_path, LABELS, PREDICTED, overwrite=True)
    assert (tmp_path / "negative" / "film.raw").read_text() == "photographs"
    assert rows(tmp_path / "negative" / "repair.h5") == [1, 8, 5, 2, 6, 9, 7]
    shutil.rmtree(tmp_path / "negative")
    (tmp_path / "negative").write_text("a file")
    with pytest.raises(InputError, match="is not a folder"):
        run(tmp_path, LABELS, PREDICTED, overwrite=True)


def test_a_failure_leaves_the_old_trees(tmp_path: Path) -> None:
    run(tmp_path, LABELS, PREDICTED)
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    source = open_image_set(tmp_path / "repair.h5")
    cut = (tmp_path / "repair.h5").read_bytes()[:-200]
    (tmp_path / "repair.h5").write_bytes(cut)
    with pytest.raises(InputError):
        write_targets(source, np.array(PREDICTED[::-1], np.int64), tmp_path)
    after = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    assert after == before | {"repair.h5": cut}
    with pytest.raises(ValueError, match="shape"):
        write_targets(source, np.zeros(3, np.int64), tmp_path)


def test_open_negatives(tmp_path: Path) -> None:
    run(tmp_path, LABELS, PREDICTED)
    negative = tmp_path / "negative"
    found = open_negatives(negative / "2")
    assert found is not None
    assert found.rows == 3
    pair = open_negatives(negative / "2" / "5")
    assert pair is not None
    assert pair.rows == 2
    (negative / "8").mkdir()
    for label in ("0", "8", "2/7", "0/1"):
        assert open_negatives(negative / label) is None
    for name, message in (
        ("99", "99 no label of"),
        ("shirt", "does not exist"),
        ("2/labels.json", "is a file"),
        ("2/5/0", "does not exist"),
    ):
        with pytest.raises(InputError, match=message):
            open_negatives(negative / name)
    with pytest.raises(InputError, match="does not exist, expected a folder negative/<label>"):
        open_negatives(tmp_path / "elsewhere" / "negative" / "6")
    with pytest.raises(InputError, match=r"has no repair.h5"):
        open_negatives(tmp_path / "..")
    other = tmp_path / "mine"
    other.mkdir()
    make_set(other / "repair.h5", [1, 2])
    mine = open_negatives(other)
    assert mine is not None
    assert mine.rows == 2


def test_open_positives(tmp_path: Path) -> None:
    run(tmp_path, LABELS, PREDICTED)
    found = open_positives(tmp_path / "positive")
    assert found is not None
    assert found.labels.tolist() == [11, 2, 7]
    (tmp_path / "empty").mkdir()
    for name, message in (("nowhere", "does not exist"), ("empty", "has no repair.h5")):
        with pytest.raises(InputError, match=message):
            open_positives(tmp_path / name)


def test_targets_of_several_inputs_can_be_read_as_such(tmp_path: Path) -> None:
    """2,300 rows: more than one block; the numbers of the rows are in every input."""
    count = 2300
    random = np.random.default_rng(1)
    labels, predicted = random.integers(0, 3, count), random.integers(0, 3, count)
    with h5py.File(tmp_path / "repair.h5", "w") as file:
        group = file.create_group("images", track_order=True)
        group["tokens"] = np.stack([np.arange(count), np.arange(count) + 1], axis=1).astype(np.int64)
        group["bias"] = np.arange(count, dtype=np.float16).reshape(-1, 1, 1)
        file["labels"] = np.eye(3, dtype=np.uint8)[labels]
    source = open_image_set(tmp_path / "repair.h5")
    with open_reader(source) as reader:
        stored, _ = reader.read_stored(0, count)
    write_targets(source, predicted.astype(np.int64), tmp_path)
    seen = 0
    for path in [*tmp_path.glob("positive/*/repair.h5"), *tmp_path.glob("negative/*/*/repair.h5")]:
        found = open_image_set(path)
        with open_reader(found) as reader:
            images, _ = reader.read_stored(0, found.rows)
        true = int(path.parent.name if path.parts[-3] == "positive" else path.parent.parent.name)
        rows = np.flatnonzero((labels == true) & (predicted == int(path.parent.name)))
        assert found.inputs == source.inputs == (("tokens", (2,)), ("bias", (1, 1)))
        assert images.dtype == stored.dtype
        assert images.tobytes() == stored[rows].tobytes()
        seen += len(rows)
    assert seen == count
    negatives = open_negatives(tmp_path / "negative" / "1")
    assert negatives is not None
    assert negatives.rows == ((labels == 1) & (predicted != 1)).sum()
