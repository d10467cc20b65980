from __future__ import annotations

import math
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core.errors import InputError
from engine.data.chunks import split_chunks


def write_source(path: Path, rows: int, dtype: str = "float64") -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(rows)
    images = random.random((rows, 3, 2, 1)).astype(dtype)
    labels = np.eye(4, dtype="float32")[random.integers(0, 4, rows)]
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=images, chunks=(min(rows, 50), 3, 2, 1), compression="gzip")
        file["labels"] = labels
        file["image_ids"] = [f"id{i}" for i in range(rows)]
        file.attrs["label_names"] = ["a", "b", "c", "d"]
        file.attrs["preprocess"] = "pad"
    return images, labels


def content(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        assert all(file[name].chunks is None for name in file)
        return {name: file[name][()] for name in file}


def test_equals_the_tutorials_script(tmp_path: Path) -> None:
    images, labels = write_source(tmp_path / "repair.h5", 1234)
    paths = split_chunks(tmp_path / "repair.h5")
    assert paths == [tmp_path / "repairsets" / str(i) / "repair.h5" for i in range(10)]
    assert sorted(p.name for p in (tmp_path / "repairsets").iterdir()) == [str(i) for i in range(10)]
    for i, path in enumerate(paths):
        rows = slice(100 * i, 100 * (i + 1))
        found = content(path)
        assert set(found) == {"images", "labels"}
        for name, expected in (("images", images[rows]), ("labels", labels[rows])):
            assert found[name].dtype == expected.dtype
            assert np.array_equal(found[name], expected)
        with h5py.File(path) as file:
            assert list(file.attrs["label_names"]) == ["a", "b", "c", "d"]
            assert file.attrs["preprocess"] == "pad"


@settings(deadline=None, max_examples=25)
@given(rows=st.integers(1, 60), size=st.integers(1, 25), chunks=st.none() | st.integers(1, 6))
def test_chunks_concatenate_to_the_source(rows: int, size: int, chunks: int | None) -> None:
    with tempfile.TemporaryDirectory() as name:
        images, labels = write_source(Path(name, "repair.h5"), rows)
        paths = split_chunks(Path(name, "repair.h5"), chunk_size=size, chunks=chunks)
        found = [content(path) for path in paths]
    kept = rows if chunks is None else min(rows, size * chunks)
    assert len(paths) == math.ceil(kept / size)
    assert np.array_equal(np.concatenate([c["images"] for c in found]), images[:kept])
    assert np.array_equal(np.concatenate([c["labels"] for c in found]), labels[:kept])


def test_short_data_and_a_chosen_folder(tmp_path: Path) -> None:
    write_source(tmp_path / "repair.h5", 200)
    out, seen = tmp_path / "a" / "b", []
    paths = split_chunks(tmp_path / "repair.h5", chunk_size=150, output_dir=out, progress=seen.append)
    assert [len(content(path)["labels"]) for path in paths] == [150, 50]
    assert sum(seen) == 200
    assert sorted(p.name for p in out.iterdir()) == ["0", "1"], "nothing temporary, no empty chunk"


def test_chunks_with_work_in_them_are_refused(tmp_path: Path) -> None:
    write_source(tmp_path / "repair.h5", 30)
    root = tmp_path / "repairsets"
    split_chunks(tmp_path / "repair.h5", chunk_size=5)
    model = root / "4" / "negative" / "2" / "repair" / "model"
    model.parent.mkdir(parents=True)
    model.write_text("repaired")
    (root / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"repairsets.0 exists and may hold"):
        split_chunks(tmp_path / "repair.h5", chunk_size=10)
    assert model.exists()
    assert len(content(root / "0" / "repair.h5")["labels"]) == 5
    split_chunks(tmp_path / "repair.h5", chunk_size=10, overwrite=True)
    assert sorted(p.name for p in root.iterdir()) == ["0", "1", "2", "notes.txt"]
    assert len(content(root / "0" / "repair.h5")["labels"]) == 10


def test_bad_input_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        split_chunks(tmp_path / "repair.h5")
    write_source(tmp_path / "repair.h5", 10)
    for arguments in ({"chunk_size": 0}, {"chunks": 0}):
        with pytest.raises(InputError, match="expected at least 1"):
            split_chunks(tmp_path / "repair.h5", **arguments)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        split_chunks(tmp_path / "repair.h5", output_dir=tmp_path / "file")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "repair.h5"]
