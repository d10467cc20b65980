"""Rows that are held out and searched too: refused where they are many, told where they are few; nothing is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.integration.conftest import HERE, MODEL, Command, Refused, contents, ok
from tests.integration.test_bad_input import NEGATIVES, OPTIMIZE, SMALL

ALLOW = "--allow-shared-rows"
EVALUATE = ["evaluate", *MODEL, *NEGATIVES, *SMALL, "--num-runs", "1", "--output-dir", "evaluated", *HERE]
BATCH = ["batch", "--method", "Arachne", *MODEL, "--chunks", "chunks", "--labels", "6", "--num-particles", "6"]
BATCH += ["--num-iterations", "1"]
BATCH += ["--positive-weights", "0.15x", "--max-rounds", "1", "--output-dir", "run", *HERE]
VAL, TEST = ["--val-data", "data/val.h5"], ["--test-data", "data/test.h5"]


def put_rows(source: Path, rows: Sequence[int], target: Path, *, label: int | None = None) -> None:
    """Let the first rows of a set be those of another, with their labels or all with one."""
    with h5py.File(source) as file:
        images, labels = file["images"][...][list(rows)], file["labels"][...][list(rows)]
    if label is not None:
        labels[:] = np.eye(10, dtype=labels.dtype)[label]
    content = target.read_bytes()
    target.unlink()  # its other names keep what it was
    target.write_bytes(content)
    with h5py.File(target, "r+") as file:
        file["images"][: len(rows)], file["labels"][: len(rows)] = images, labels


NEGATIVE, POSITIVE = "data/negative/6/repair.h5", "data/positive/repair.h5"
PAIRS = {
    "validation and test": ("data/val.h5", "data/test.h5", [*VAL, *TEST]),
    "validation and negatives": (NEGATIVE, "data/val.h5", [*VAL, *TEST]),
    "validation and positives": (POSITIVE, "data/val.h5", [*VAL, *TEST]),
    "test and negatives": (NEGATIVE, "data/test.h5", TEST),
    "test and positives": (POSITIVE, "data/test.h5", TEST),
}


@pytest.mark.parametrize("words", [OPTIMIZE, EVALUATE], ids=["optimize", "evaluate"])
@pytest.mark.parametrize("pair", PAIRS)
def test_more_than_a_few_are_refused(words: list[str], pair: str, workspace: Path, refused: Refused) -> None:
    source, target, held_out = PAIRS[pair]
    put_rows(workspace / source, range(4), workspace / target, label=2)
    found = refused(*words, *held_out, says=(" share 4 rows, 3.33 % of the smaller set, expected at most 1 %", ALLOW))
    assert f"{workspace / source}" in found
    assert f"{workspace / target}" in found
    assert sum(path in found for path in (NEGATIVE, POSITIVE)) == (source in (NEGATIVE, POSITIVE))


@pytest.mark.parametrize("words", [OPTIMIZE, EVALUATE], ids=["optimize", "evaluate"])
def test_few_are_told(words: list[str], workspace: Path, command: Command) -> None:
    """One, of the 117 that are distinct in the smaller set: that it stands there four times makes it no more."""
    put_rows(workspace / POSITIVE, [5, 5, 5, 5], workspace / "data/test.h5")
    done = ok(command(*words, *TEST))
    files = f"{workspace}/data/test.h5 and {workspace / POSITIVE}"
    assert (
        done.err == f"warning: {files} share 1 row, 0.855 % of the smaller set: what is measured on them is too good\n"
    )


@pytest.mark.parametrize("words", [OPTIMIZE, EVALUATE], ids=["optimize", "evaluate"])
def test_one_file_twice(words: list[str], workspace: Path, refused: Refused, command: Command) -> None:
    """Refused whatever it is called; and with leave the results are those of two files that only look like one."""
    shutil.copy("data/test.h5", "same.h5")
    held_out = ["--val-data", "same.h5", *TEST]
    refused(*words, *held_out, says=(" share 120 rows, 100 % of the smaller set",))
    done = ok(command(*words, *held_out, ALLOW))
    assert "share 120 rows" in done.err


def test_chunks_and_held_out_rows_of_a_batch(batchspace: Path, refused: Refused, command: Command) -> None:
    """Also those of the last chunk, and those of further positives; they go on with leave."""
    put_rows(batchspace / "chunks/3/repair.h5", range(5, 15), batchspace / "test.h5")
    (batchspace / "more").mkdir()
    shutil.copy("chunks/1/repair.h5", "more/repair.h5")
    put_rows(batchspace / "val.h5", range(20), batchspace / "more/repair.h5")
    words = [*BATCH, "--val-data", "val.h5"]
    files = f"{batchspace}/test.h5 and {batchspace}/chunks/3/repair.h5"
    refused(*words, "--test-data", "test.h5", says=(f"{files} share 10 rows, ",))
    files = f"{batchspace}/val.h5 and {batchspace}/more/repair.h5"
    refused(*words, "--positive-inputs-dir", "more", says=(f"{files} share 20 rows, 6.25 % of the smaller set",))

    done = command(*words, "--test-data", "test.h5", ALLOW)
    assert done.code in (0, 3), done.err
    assert [line.partition(" share ")[2][:7] for line in done.err.splitlines()] == ["10 rows"]
    assert json.loads(Path("run/run.json").read_text())["state"] == "done"


@pytest.mark.parametrize("more", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_one_file_twice_in_a_batch(more: list[str], batchspace: Path, refused: Refused, command: Command) -> None:
    Path("again.h5").symlink_to("chunks/2/repair.h5")
    words = [*BATCH, "--val-data", "val.h5", *more]
    one = f"{batchspace}/again.h5 and {batchspace}/chunks/2/repair.h5 are one file, expected rows"
    refused(*words, "--val-data", "again.h5", says=(one, ALLOW))
    refused(*words, "--test-data", "val.h5", says=(f"{batchspace}/val.h5 and {batchspace}/val.h5 are one file",))
    before = contents(batchspace / "chunks")
    done = command(*words, "--test-data", "val.h5", ALLOW)
    assert done.code in (0, 3), done.err
    assert contents(batchspace / "chunks") == before


def test_a_chunk_that_cannot_be_read_is_told_by_its_searches(batchspace: Path, command: Command) -> None:
    chunk = batchspace / "chunks/1/repair.h5"
    put_rows(batchspace / "val.h5", range(10), chunk)
    with h5py.File(chunk, "r+") as file:
        file["images"][200, 3] = np.nan
    done = command(*BATCH, "--val-data", "val.h5")
    assert done.code == 4, done.err
    assert f"{chunk}: row 200 has pixels that are NaN" in done.out
