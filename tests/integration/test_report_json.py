"""`report --json`: one object for every kind of run, against its tables and what the terminal says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.records.store import RunRecords, read_facts, read_table
from tests.integration.conftest import Command
from tests.support.comparisons import write_comparison
from tests.support.pages import rows_of

OLD = Path(__file__).parents[1] / "data" / "run-0.6.0"


def no_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


@pytest.fixture
def json_of(command: Command, tmp_path: Path) -> Callable[[Path], dict[str, Any]]:
    def written(directory: Path) -> dict[str, Any]:
        path = tmp_path / "written" / "report.json"
        done = command("report", directory, "--json", path)
        assert (done.code, done.out) == (0, f"created files:\n{path}\n")
        text = path.read_text(encoding="ascii")
        assert text.startswith('{\n  "report_format": 1,\n')
        found: dict[str, Any] = json.loads(text, parse_constant=no_constant)
        return found

    return written


JsonOf = Callable[[Path], dict[str, Any]]


# Exact content.


def small_run(root: Path, mode: str | None) -> Path:
    """One search of label 1, which repairs 3 of 40 test rows and breaks one, then the saved model; as mode says."""
    facts = {
        "labels": [1],
        "model": {"path": str(root / "model.keras")},
        "label_names": ["cat", "dog"],
        "notes": ["hm"],
    }
    facts |= {"requirements": ["gain of 1 dog at least 2 points"], "started": "2026-01-02T03:04:05+00:00"}
    facts |= {"held_out": {"test": str(root / "run" / "test.h5")}}
    records = RunRecords.create(root / "run", facts | ({"mode": mode} if mode else {}), overwrite=False)
    row = {"split": "test", "label": 1, "total": 40}
    counts = {"base": (30, 0, 0), "repaired": (32, 3, 1), "step0": (30, 0, 0), "step1": (32, 3, 1)}
    for name, (correct, repaired, broken) in counts.items():
        step = name.startswith("step")
        if step and mode not in ("rounds", "chain"):
            continue
        named = {"job": name if step else "batch", "stage": "step" if step else name}
        measured = {"correct": correct, "accuracy": correct / 40, "repaired": repaired, "broken": broken}
        records.replace("labels", name, [row | named | measured])
    blank = dict.fromkeys(read_table(root / "run", "jobs").column_names)
    searched = {"job": "one", "step": 1, "chunk": str(root / "chunks" / "0"), "label": 1, "seed": 0, "state": "done"}
    searched |= {"chosen": True, "fitness": float("nan"), "worker": "here:1", "seconds": 1.5, "stop": "no gain"}
    records.replace("jobs", "one", [blank | searched])
    verdict = {"text": facts["requirements"][0], "kind": "min_gain", "label": 1, "predicted": -1, "limit": 0.02}
    verdict |= {"base": 0.75, "value": 0.05, "low": -0.01, "high": 0.11, "total": 40, "count_before": 30}
    verdict |= {"split": "test", "requirement": 0, "count_after": 32, "margin": 0.03, "met": True}
    records.replace("verdicts", "batch", [verdict])
    records.compact({**facts, **({"mode": mode} if mode else {}), "state": "done", "seconds": 2.5, "exit_code": 0})
    return root / "run"


@pytest.mark.parametrize("mode", ["rounds", "chain", "independent", None])
def test_the_whole_object(mode: str | None, tmp_path: Path, json_of: JsonOf) -> None:
    base = {"total": 40, "correct_before": 30, "correct_after": 30, "fixed": 0, "broken": 0}
    saved = base | {"correct_after": 32, "fixed": 3, "broken": 1}
    test, first, last = (
        {"test": {"all": counted, "labels": [{"label": 1} | counted]}} for counted in (saved, base, saved)
    )
    stepped = mode in ("rounds", "chain")
    search = dict.fromkeys(read_table(small_run(tmp_path, mode), "jobs").column_names) | {
        "job": "one",
        "step": 1,
        "chunk": "../chunks/0",
        "label": 1,
        "seed": 0,
        "stop": "no gain",
        "state": "done",
        "note": "",
        "chosen": True,
        "where": "",
        "worker": "here:1",
        "seconds": 1.5,
        "gain": None,
        "overall": None,
    }
    assert json_of(tmp_path / "run") == {
        "report_format": 1,
        "kind": mode or "optimize",
        "state": "done",
        "part": None,
        "model": "../model.keras",
        "started": "2026-01-02T03:04:05+00:00",
        "seconds": 2.5,
        "exit_code": 0,
        "method": None,
        "labels": [1],
        "label_names": ["cat", "dog"],
        "requirements": ["gain of 1 dog at least 2 points"],
        "confidence": None,
        "held_out": {"test": "test.h5"},
        "judged_by": "test",
        "notes": ["hm"],
        "verdicts": {
            "test": [
                {
                    "text": "gain of 1 dog at least 2 points",
                    "kind": "min_gain",
                    "limit": 0.02,
                    "labels": [1],
                    "predicted": None,
                    "base": 0.75,
                    "value": 0.05,
                    "low": -0.01,
                    "high": 0.11,
                    "total": 40,
                    "count_before": 30,
                    "count_after": 32,
                    "margin": 0.03,
                    "met": True,
                }
            ]
        },
        "outcomes": [{"job": "batch", "splits": test}],
        "steps": [{"job": "step0", "splits": first}, {"job": "step1", "splits": last}] if stepped else [],
        "saved_step": 1 if stepped else None,
        "searches": {"states": {"done": 1}, "rows": [search]},
        "workers": [{"name": "here:1", "searches": 1, "busy": 1.5}],
        "promise": None,
        "crossfit": None,
        "comparison": None,
    }


def test_the_promise_and_the_mixture_of_crossfit(json_of: JsonOf) -> None:
    run = OLD / "optimize-crossfit"
    found = json_of(run)
    assert (found["kind"], found["method"], found["confidence"], found["exit_code"]) == ("CrossFit", "CrossFit", 0.9, 3)
    asked = {"drop of all labels together at most 5 points": None, "gain of 6 Shirt at least 2 points": [6]}
    columns = ("text", "kind", "limit", "value", "low", "high", "rows", "new_rows", "met", "chance", "enough")
    promises = rows_of(run, "promises")
    assert found["promise"] == {
        "promised": False,
        "chance": pytest.approx(0.7660635856745786),
        "confidence": 0.9,
        "new_rows": 12,
        "enough": None,
        "easiest_step": None,
        "requirements_stated": True,
        "requirements": [
            {name: row[name] for name in columns} | {"labels": labels, "predicted": None}
            for row, labels in zip(promises, asked.values(), strict=True)
        ],
    }
    assert [row["text"] for row in promises] == list(asked)
    mixture, out_of_fold = rows_of(run, "mixture"), found["crossfit"].pop("out_of_fold")
    tunings = [
        [row for row in rows_of(run, "tunings") if row["recipe"] == name] for name in ("1:1", "4:1")
    ]  # by ascending fold
    assert found["crossfit"] == {
        "folds": 2,
        "layers": ["dense", "dense_1"],
        "weights": 74794,
        "tunings_ended": 4,
        "step": 0.25,
        "step_asked_for": False,
        "recipes": [
            {
                "name": row["name"],
                "tunings": mine,
                "found": row["found"],
                "taken": row["taken"],
                "change": pytest.approx(np.mean([tuning["change"] for tuning in mine])),
            }
            for row, mine in zip(mixture[:2], tunings, strict=True)
        ],
        "offsets": [{name: row[name] for name in ("label", "found", "taken")} for row in mixture[2:]],
        "frontier": rows_of(run, "frontier"),
    }
    counted = [row for row in rows_of(run, "labels") if (row["stage"], row["split"]) == ("step", "out of fold")]
    assert [(row["label"], row["total"], row["correct_after"]) for row in out_of_fold["labels"]] == [
        (row["label"], row["total"], row["correct"]) for row in counted
    ]
    assert out_of_fold["all"]["fixed"] == sum(row["repaired"] for row in counted)


def test_the_outcomes_of_a_comparison(tmp_path: Path, json_of: JsonOf) -> None:
    written = write_comparison(tmp_path)
    found = json_of(written.directory)
    comparison = found["comparison"]
    methods = {method.pop("name"): method for method in comparison.pop("methods")}
    assert found["kind"] == "compare"
    assert found["held_out"] == {"validation": "../val.h5", "test": "../test.h5"}
    assert comparison == {
        "reference": "CrossFit",
        "draws": 5,
        "rows": 60,
        "pool": read_facts(written.directory)["pool"],
        "test_rows": len(written.label),
        "repairs": 25,
        "repairs_ended": 25,
    }
    stored = rows_of(written.directory, "outcomes")
    for name, method in methods.items():
        mine = {
            reading: [row for row in stored if (row["method"], row["reading"]) == (name, reading)]
            for reading in ("chosen", "found", "failed")
        }
        assert sum(failed["draws"] for failed in method["failed"]) == len(mine.pop("failed"))
        assert list(method["readings"]) == [reading for reading, rows in mine.items() if rows]
        for reading, told in method["readings"].items():
            rows = mine[reading]
            assert method["draws_ended"] == len(rows)
            left_out = ("method", "reading", "after")
            assert told["outcomes"] == [
                {column: row[column] for column in row if column not in left_out} | {"changed": row["weights"] != 0}
                for row in rows
            ]
            assert told["means"] == {
                column: pytest.approx(np.mean([row[column] for row in rows])) for column in told["means"]
            }
            assert told["kept"] == {"draws": sum(row["kept"] for row in rows), "of": 5}
            promised = [row["kept"] for row in rows if row["promised"] and row["weights"]]
            assert told["held"] == {"draws": sum(promised), "of": len(promised)}
            worst = [row["worst_label"] for row in rows]
            assert told["worst_label"] == max(sorted(set(worst)), key=worst.count)
            assert method["seconds"] == pytest.approx(np.median([row["seconds"] for row in rows]))
            assert set(told["against"]) == (set() if name == "CrossFit" else {"gain", "all"})
    against = methods["Arachne"]["readings"]["chosen"]["against"]["gain"]
    assert set(against) == {"mean", "draws", "low", "high", "p", "why", "error", "adjusted", "verdict"}
    assert methods["NeuRecover"]["readings"] == {}


def test_a_run_that_goes_on(samples: dict[str, Path], json_of: JsonOf) -> None:
    found = json_of(samples["running"])
    assert (found["state"], found["seconds"], found["exit_code"], found["outcomes"]) == ("running", None, None, [])
    assert found["searches"]["states"]["running"] > 0


# Files.


def test_page_and_json_at_once(tmp_path: Path, command: Command) -> None:
    done = command("report", OLD / "compare", "--html", tmp_path / "a.html", "--json", tmp_path / "a.json")
    assert done.out == f"created files:\n{tmp_path / 'a.html'}\n{tmp_path / 'a.json'}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "a.json"]


@pytest.mark.parametrize(("kind", "name"), [("JSON file", "json"), ("page", "html")])
def test_only_files_of_ours_are_replaced(
    kind: str, name: str, tmp_path: Path, command: Command, refused: Callable[..., str]
) -> None:
    directory = Path(shutil.copytree(OLD / "batch-arachne", tmp_path / "run"))
    path, option = tmp_path / f"mine.{name}", f"--{name}"
    path.write_text('{"settings": 1}')
    refused("report", directory, option, path, says=(f"{path} is not a {kind} of `report`, expected another",))
    assert path.read_text() == '{"settings": 1}'
    assert command("report", directory, option, path, "--overwrite").code == 0
    first = path.read_text()
    path.write_text(first + "\n")
    assert command("report", directory, option, path).code == 0
    assert path.read_text() == first
    refused("report", directory, option, tmp_path / "a.txt", says=(f"a.txt is no name of a {kind}", f".{name}"))
    (tmp_path / f"folder.{name}").mkdir()
    refused("report", directory, option, tmp_path / f"folder.{name}", says=(f"folder.{name} is a folder",))
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([f"folder.{name}", path.name, "run"])
    (directory / "run.json").write_text("{")
    refused("report", directory, option, path, says=("run.json",))
    assert path.read_text() == first
