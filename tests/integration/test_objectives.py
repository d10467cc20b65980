"""Objectives by label: `--objective requirements`, and priorities from an edited `labels.json`."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cluster.records.store import read_facts, read_table
from tests.integration.conftest import HERE, MODEL, Command, Refused, ok
from tests.integration.test_bad_input import NEGATIVES, OPTIMIZE

REQUIREMENTS = '[[require]]\nmax_drop = 0.01\n[[require]]\nlabel = "Shirt"\nmin_gain = 0.05\n'
LABELS = "data/negative/labels.json"
POSITIVE_LABELS = "data/positive/labels.json"
BATCH = [
    *("batch", "--method", "Arachne", *MODEL, "--chunks", "data", "--val-data", "data/val.h5", "--mode", "independent"),
    *("--num-particles", "6", "--num-iterations", "2", "--output-dir", "batch", *HERE),
]
EVALUATE = ["evaluate", *MODEL, *NEGATIVES, "--num-runs", "1", "--num-particles", "6", "--num-iterations", "2", *HERE]


def edited(path: str, key: str, **values: Any) -> None:
    """Give entries of a `labels.json` other values; replaced, as its file has a second name elsewhere."""
    entries = json.loads(Path(path).read_text())
    for label, entry in entries:
        entry[key] = values.get(f"label{label}", entry[key])
    Path(path).unlink()
    Path(path).write_text(json.dumps(entries))


def entries_of(path: str) -> dict[str, dict[str, Any]]:
    return dict(json.loads(Path(path).read_text()))


def test_priorities_and_what_was_found_for_them(workspace: Path, command: Command) -> None:
    edited(LABELS, "repair_priority", label6=3, label4=1)
    edited(POSITIVE_LABELS, "prevent_degradation", label0=1, label2=0.5, label6=0.25)
    words = [*OPTIMIZE, "--label-file", LABELS, "--positive-label-file", POSITIVE_LABELS]
    ok(command(*words, "--output-dir", "out"))
    with Path("out/weights.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    entries = entries_of(LABELS)
    assert entries["6"] == {
        "repair_priority": 3,
        "prevent_degradation": 0,
        "weights": [[int(number) for number in row[:3]] for row in rows],
        "repaired_values": [row[4] for row in rows],
    }
    assert rows and "weights" not in entries["4"]  # its rows were not searched
    settings = read_facts(Path("run"))["arguments"]["settings"]
    assert settings["objective"] == "priorities"
    assert [6, 3.0] in settings["priorities"]["repair"] and [0, 1.0] in settings["priorities"]["protect"]
    (job,) = read_table(Path("run"), "jobs").to_pylist()
    positives = {label: entry for label, entry in entries_of(POSITIVE_LABELS).items() if entry["prevent_degradation"]}
    assert set(positives) == {"0", "2", "6"} and 0 < job["positives"] < 200


@pytest.mark.slow
def test_the_file_that_has_what_was_found_gives_the_same_run(workspace: Path, command: Command) -> None:
    edited(LABELS, "repair_priority", label6=3, label4=1)
    words = [*OPTIMIZE, "--label-file", LABELS, "--val-data", "data/val.h5", "--output-dir", "out", "--resume"]
    ok(command(*words))
    before = Path(LABELS).read_bytes()
    assert b"repaired_values" in before
    ok(command(*words))
    assert Path(LABELS).read_bytes() == before


@pytest.mark.slow
def test_requirements_steer(workspace: Path, command: Command) -> None:
    Path("goals.toml").write_text(REQUIREMENTS)
    words = [*OPTIMIZE[:-2], "--objective", "requirements", "--requirements", "goals.toml", "--val-data", "data/val.h5"]
    done = ok(command(*words, "--output-dir", "out"))
    assert "weights changed; the search repaired" in done.out  # no positive weight
    settings = read_facts(Path("run"))["arguments"]["settings"]
    assert [each["kind"] for each in settings["requirements"]] == ["max_drop", "min_gain"]
    (job,) = read_table(Path("run"), "jobs").to_pylist()
    assert job["job"].endswith("-6-requirements-s0") and job["positive_weight"] is None
    assert job["fitness"] >= job["start_fitness"]
    ok(command("report", "run", "--html", "page.html"))
    # Without a file: no label is to fall.
    default = [*OPTIMIZE, "--objective", "requirements", "--output-dir", "out", "--overwrite"]
    ok(command(*default))
    kinds = [each["kind"] for each in read_facts(Path("run"))["arguments"]["settings"]["requirements"]]
    assert kinds == ["max_drop"] * 11


@pytest.mark.slow
def test_batches_and_evaluations(workspace: Path, command: Command) -> None:
    edited(LABELS, "repair_priority", label6=3, label4=1)
    ok(command(*BATCH, "--label-file", LABELS, "--positive-weights", "0.2x,0.5x"))
    jobs = read_table(Path("batch"), "jobs").to_pylist()
    assert {row["label"] for row in jobs if row["state"] == "done"} == {4, 6}
    assert "weights" not in entries_of(LABELS)["6"]
    ok(command(*BATCH, "--labels", "6", "--objective", "requirements", "--overwrite"))
    done_jobs = [row for row in read_table(Path("batch"), "jobs").to_pylist() if row["state"] == "done"]
    assert [row["job"] for row in done_jobs] == ["step1-chunknegative-label6-requirements-s0"]
    ok(command("report", "batch", "--html", "page.html"))
    Path("goals.toml").write_text(REQUIREMENTS)
    sweep = ["--sweep", "objective=arachne,requirements", "--requirements", "goals.toml"]
    ok(command(*EVALUATE, *sweep, "--output-dir", "evaluated"))
    table = pa.ipc.open_file(pa.OSFile("evaluated/evaluate.arrow")).read_all().to_pylist()
    assert [row["setting"] for row in table] == ["objective=arachne", "objective=requirements"]
    assert [row["positive_weight"] is None for row in table] == [False, True]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([*OPTIMIZE, "--requirements", "goals.toml"], "--requirements is of CrossFit and of --objective requirements"),
        ([*EVALUATE, "--requirements", "goals.toml"], "--requirements is of CrossFit and of --objective requirements"),
        ([*OPTIMIZE, "--objective", "requirements", "--positive-weight", "3"], "positive_weight is 3 and the"),
        ([*EVALUATE, "--objective", "requirements", "--positive-weight", "3"], "positive_weight is 3 and the"),
        ([*BATCH, "--objective", "requirements", "--positive-weights", "0.1x"], "positive_weights is '0.1x' and the"),
        ([*OPTIMIZE, "--objective", "requirements", "--requirements", "goals.toml"], "goals.toml states confidence"),
        ([*OPTIMIZE, "--label-file", LABELS], "labels.json gives no label a repair_priority above 0"),
        ([*OPTIMIZE, "--label-file", "goals.toml"], "goals.toml is not JSON"),
        ([*OPTIMIZE, "--label-file", LABELS, "--objective", "loss"], "--label-file makes an objective of its own"),
        ([*OPTIMIZE, "--positive-label-file", LABELS], "--positive-label-file is given and --label-file is not"),
        ([*OPTIMIZE, "--label-file", "four.json"], "6: no row to repair has a label of a priority"),
        ([*BATCH, "--label-file", "four.json", "--labels", "6"], "four.json gives label 6, which is to be"),
        ([*OPTIMIZE, "--label-file", "four.json", "--positive-label-file", LABELS], "no label a prevent_degradation"),
        ([*OPTIMIZE, "--method", "CrossFit", "--label-file", LABELS], "--label-file is of Arachne and the method"),
    ],
)
def test_what_is_refused(words: list[str], found: str, workspace: Path, refused: Refused) -> None:
    Path("goals.toml").write_text("confidence = 0.9\n" + REQUIREMENTS)
    Path("four.json").write_text('[["4", {"repair_priority": 1, "prevent_degradation": 0}]]')
    refused(*words, says=(found,))
