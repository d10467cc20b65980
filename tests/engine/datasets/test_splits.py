from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.errors import InputError
from engine.data.image_set import open_image_set, read_images
from engine.datasets.division import Division, Ratio, check_ratio, cut, divide_by_rate, shuffled
from engine.datasets.splits import Layout, Split, write_splits
from tests.support.prepare import StoppedError, Stopping, backwards, files

LAYOUT = Layout(("cat", "dög", "eel"), "resize", size=(4, 4))


@pytest.mark.parametrize(
    ("count", "ratio", "keep_all", "expected"),
    [
        (68_527, (0.5, 0.2, 0.3, 0), False, {"train": 34_263, "val": 13_705, "test": 20_558}),  # of the tutorial
        (92_159, (0, 0, 0, 1), False, {"repair": 92_159}),
        (10, (0.4, 0.2, 0.3, 0.1), False, {"train": 4, "val": 2, "test": 3, "repair": 1}),  # a float sum above 1
        (7, (0.5, 0.2, 0.3, 0), False, {"train": 3, "val": 1, "test": 2}),
        (8, (0.5, 0.2, 0.3, 0), False, {"train": 4, "val": 1, "test": 2}),  # 4, 5.6, 7.4
        (7, (0.5, 0.2, 0.3, 0), True, {"train": 3, "val": 1, "test": 3}),
        (3, (0, 1, 0, 0), False, {"val": 3}),
    ],
)
def test_ratios_by_hand(count: int, ratio: Ratio, keep_all: bool, expected: dict[str, int]) -> None:
    check_ratio(ratio)
    found = cut(count, ratio, keep_all=keep_all)
    assert {name: rows.stop - rows.start for name, rows in found.items()} == expected


@pytest.mark.parametrize("ratio", [(0.5, 0.5, 0.5, 0), (0.2, 0.2, 0.2, 0.2), (1.5, -0.5, 0, 0), (np.nan, 0, 0, 1)])
def test_ratios_that_are_none(ratio: Ratio) -> None:
    with pytest.raises(InputError, match="expected"):
        check_ratio(ratio)


SHARES = st.lists(st.integers(0, 10), min_size=4, max_size=4).filter(any)


@given(count=st.integers(1, 500), shares=SHARES, keep_all=st.booleans())
def test_parts_are_near_their_ratios_and_share_no_row(count: int, shares: list[int], keep_all: bool) -> None:
    ratio = tuple(share / sum(shares) for share in shares)
    parts = cut(count, ratio, keep_all=keep_all)  # type: ignore[arg-type]
    rows = [row for part in parts.values() for row in range(count)[part]]
    assert rows == list(range(len(rows)))
    assert len(rows) >= count - 3
    assert len(rows) == count or not (keep_all or ratio[3])
    for name, share in zip(("train", "val", "test", "repair"), ratio, strict=True):
        size = len(range(count)[parts[name]]) if name in parts else 0
        assert abs(size - count * share) < 4
        assert not size or share


def test_shuffling() -> None:
    order = shuffled(50, 3)
    assert sorted(order.tolist()) == list(range(50))
    names = np.array([f"{k:02}" for k in range(50)], object)
    np.random.default_rng(3).shuffle(names)
    assert [f"{k:02}" for k in order] == names.tolist()
    with pytest.raises(InputError, match="random_state is -1"):
        shuffled(5, -1)


@pytest.mark.parametrize(
    ("count", "ratio", "expected", "with_test"),
    [
        (120, (0.4, 0.2, 0.3, 0.1), {"train": 69, "val": 34, "repair": 17}, True),  # float sum above 1
        (120, (0, 0, 0.5, 0.5), {"repair": 120}, True),
        (120, (0.7, 0.3, 0, 0), {"train": 84, "val": 36}, False),
        (120, (1, 0, 0, 0), {"train": 120}, False),
        (120, (0.35, 0, 0.3, 0.35), {"train": 60, "repair": 60}, True),
        (10, (0.3, 0.1, 0.5, 0.1), {"train": 6, "val": 2, "repair": 2}, True),
        (10, (0.5, 0, 0.5, 0), {"train": 10}, True),
        (10, (0, 0, 1, 0), {}, True),
    ],
)
def test_dividing_training_images(count: int, ratio: Ratio, expected: dict[str, int], with_test: bool) -> None:
    division = Division(ratio, None, None)
    parts = division.rows(count)
    assert division.with_test == with_test
    assert {name: len(rows) for name, rows in parts.items()} == expected
    assert [row for rows in parts.values() for row in rows] == (list(range(count)) if expected else [])


def test_dividing_by_rate() -> None:
    drawn = divide_by_rate(np.arange(10), 0.35, 7)
    expected = sorted(random.Random(7).sample(range(10), 3), reverse=True)
    assert drawn["repair"].tolist() == expected
    assert drawn["train"].tolist() == [row for row in range(10) if row not in expected]
    with pytest.raises(InputError, match=r"divide_rate is 1\.5"):
        divide_by_rate(np.arange(10), 1.5, 0)


def make(sources: np.ndarray) -> np.ndarray:
    """Images whose pixels all are the number of their source."""
    return np.broadcast_to(sources[:, None, None, None], (len(sources), 4, 4, 3)).astype(np.float32) / 3


def splits_of(**counts: int) -> dict[str, Split]:
    found, start = {}, 0
    for name, count in counts.items():
        numbers = np.arange(start, start + count)
        ids = [f"{number}_ä.jpg" for number in numbers]
        found[name] = Split(numbers, numbers % 3, ids, ids if name == "train" else None)
        start += count
    return found


def test_what_is_stored(tmp_path: Path) -> None:
    totals: list[int] = []
    seen: list[int] = []

    def bar(title: str, total: int | None) -> Callable[[int], None]:
        assert title == "prepare" and total is not None
        totals.append(total)
        return seen.append

    out = tmp_path / "a" / "out"
    rows = write_splits(out, splits_of(train=1203, repair=7), LAYOUT, make, progress=bar)
    assert rows == {"train": 1203, "repair": 7}
    assert totals == [sum(seen)] == [1210]
    assert sorted(path.name for path in out.iterdir()) == ["repair.h5", "train.h5"]
    with h5py.File(out / "train.h5") as file:
        assert sorted(file) == ["attribute_ids", "image_ids", "images", "labels"]
        images = file["images"]
        assert (images.shape, images.dtype, images.chunks) == ((1203, 4, 4, 3), np.float32, None)
        assert np.array_equal(images[:], make(np.arange(1203)))
        assert (file["labels"].shape, file["labels"].dtype) == ((1203, 3), np.uint8)
        assert np.array_equal(file["labels"][:].argmax(axis=1), np.arange(1203) % 3)
        assert file["labels"][:].sum() == 1203
        for name in ("image_ids", "attribute_ids"):
            assert (file[name].shape, h5py.check_string_dtype(file[name].dtype).encoding) == ((1203,), "utf-8")
            assert file[name][1202].decode() == "1202_ä.jpg"
    found = open_image_set(out / "repair.h5")
    assert (found.label_names, found.preprocess, found.image_shape) == (LAYOUT.label_names, "resize", (4, 4, 3))
    assert np.array_equal(read_images(found, 0, 7), make(np.arange(1203, 1210)))
    with h5py.File(out / "repair.h5") as file:
        assert sorted(file) == ["image_ids", "images", "labels"]
    layout = Layout(("cat", "dog", "eel"), "resize", (4, 4), label_dtype="float32")
    write_splits(tmp_path / "b", splits_of(val=5), layout, make)
    with h5py.File(tmp_path / "b" / "val.h5") as file:
        assert file["labels"].dtype == np.float32


def test_the_order_of_the_work_changes_no_byte(tmp_path: Path) -> None:
    for name, options in (("one", {}), ("two", {"spread": backwards})):
        write_splits(tmp_path / name, splits_of(train=1700, test=600), LAYOUT, make, **options)  # type: ignore[arg-type]
    assert files(tmp_path / "one") == files(tmp_path / "two")


KILLED = """
import itertools, os, signal, sys
from pathlib import Path
from engine.datasets.splits import write_splits
from tests.engine.datasets.test_splits import LAYOUT, make, splits_of

def dying(function, pieces, count):
    for piece in itertools.islice(pieces, 3):
        yield piece, function(piece)
    os.kill(os.getpid(), signal.SIGKILL)

write_splits(Path(sys.argv[1]), splits_of(train=1700, test=600), LAYOUT, make, spread=dying)
"""


def test_a_killed_process_leaves_what_can_be_gone_on_from(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path / "out"], check=False, timeout=60, cwd=Path(__file__).parents[3]
    )
    assert done.returncode == -signal.SIGKILL
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".prepare.lock", ".prepare.unfinished"]
    with h5py.File(tmp_path / "out" / ".prepare.unfinished" / "train.h5") as file:
        assert np.array_equal(file["images"][:750], make(np.arange(750)))
    seen: list[int] = []
    parts = splits_of(train=1700, test=600)
    write_splits(tmp_path / "out", parts, LAYOUT, make, spread=(rest := Stopping()), progress=lambda *_: seen.append)
    starts = [(piece.split, piece.start) for piece in rest.pieces]
    assert starts == [("train", start) for start in range(750, 1700, 250)] + [("test", 0), ("test", 250), ("test", 500)]
    assert sum(seen) == 2300
    write_splits(tmp_path / "whole", parts, LAYOUT, make)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


MOVED = """
import os, signal, sys
from pathlib import Path
from engine.datasets.splits import write_splits
from tests.engine.datasets.test_splits import LAYOUT, make, splits_of

def die(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith("out/repair.h5"):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(die)
write_splits(Path(sys.argv[1]), splits_of(train=300, repair=300), LAYOUT, make)
"""


def test_a_process_killed_between_the_finished_files_loses_no_row(tmp_path: Path) -> None:
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", MOVED, tmp_path / "out"], check=False, timeout=60, cwd=Path(__file__).parents[3]
        )
        assert done.returncode == -signal.SIGKILL
        assert {path.name for path in (tmp_path / "out").glob("*.h5")} == {"train.h5"}
    for name in ("out", "whole"):
        write_splits(tmp_path / name, splits_of(train=300, repair=300), LAYOUT, make)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


@pytest.mark.parametrize("changed", ["sources", "labels", "image_ids"])
def test_other_splits_begin_anew(changed: str, tmp_path: Path) -> None:
    splits = splits_of(train=600)
    other = {name: replace(split, **{changed: getattr(split, changed)[::-1]}) for name, split in splits.items()}
    with pytest.raises(StoppedError):
        write_splits(tmp_path, other, LAYOUT, lambda sources: np.zeros_like(make(sources)), spread=Stopping(after=1))
    write_splits(tmp_path, splits, LAYOUT, make)
    found = open_image_set(tmp_path / "train.h5")
    assert np.array_equal(read_images(found, 0, 600), make(np.arange(600)))
    assert [path.name for path in tmp_path.iterdir()] == ["train.h5"]


def test_changed_files_begin_anew(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.txt" for number in range(600)]
    for number, path in enumerate(paths):
        path.write_text(str(number))

    def read(sources: Sequence[str]) -> np.ndarray:
        return make(np.array([int(Path(source).read_text()) for source in sources]))

    splits = {"val": Split(list(map(str, paths)), np.arange(600) % 3)}
    for left in (2, 3):
        with pytest.raises(StoppedError):
            write_splits(tmp_path / str(left), splits, LAYOUT, read, spread=Stopping(after=1))
        if left == 3:
            os.utime(paths[0], ns=(1, 1))
        write_splits(tmp_path / str(left), splits, LAYOUT, read, spread=(rest := Stopping()))
        assert len(rest.pieces) == left
    assert files(tmp_path / "2") == files(tmp_path / "3")


def test_files_of_others(tmp_path: Path) -> None:
    write_splits(tmp_path, splits_of(train=4), LAYOUT, make)
    write_splits(tmp_path, splits_of(repair=5), LAYOUT, make)  # the tutorial's second call
    assert sorted(path.name for path in tmp_path.iterdir()) == ["repair.h5", "train.h5"]
    write_splits(tmp_path, splits_of(train=9), LAYOUT, make)
    assert open_image_set(tmp_path / "train.h5").rows == 9
    (tmp_path / "val.h5").write_bytes(b"mine")
    before = files(tmp_path)
    with pytest.raises(InputError, match=r"val.h5 exists and was not made by prepare"):
        write_splits(tmp_path, splits_of(train=2, val=3), LAYOUT, make)
    assert files(tmp_path) == before
    write_splits(tmp_path, splits_of(val=3), LAYOUT, make, overwrite=True)
    assert open_image_set(tmp_path / "val.h5").rows == 3


def test_what_make_finds_leaves_nothing(tmp_path: Path) -> None:
    def broken(sources: np.ndarray) -> np.ndarray:
        raise InputError("picture is torn, expected a whole one")

    with pytest.raises(InputError, match="torn"):
        write_splits(tmp_path / "a" / "out", splits_of(train=4), LAYOUT, broken)
    with pytest.raises(InputError, match="would have 0 rows"):
        write_splits(tmp_path / "a" / "out", splits_of(train=4, val=0), LAYOUT, make)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is no folder"):
        write_splits(tmp_path / "file", splits_of(train=4), LAYOUT, make)


def test_memory_is_that_of_a_block(tmp_path: Path) -> None:
    """60 MB of images pass through; what is held are blocks of 6 MB."""
    import tracemalloc

    layout = Layout(("a", "b"), "resize", size=(32, 32))
    numbers = np.arange(5000)
    tracemalloc.start()
    write_splits(
        tmp_path,
        {"repair": Split(numbers, numbers % 2)},
        layout,
        lambda sources: np.zeros((len(sources), 32, 32, 3), np.float32),
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "repair.h5").stat().st_size > 60e6
    assert peak < 20e6
