"""`evaluate` by methods of the registry: its files against `optimize`, its rates, runs that fail, what stops it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from cluster.compute import works
from cluster.records.schema import EVALUATION_BY_METHOD
from cluster.records.store import read_table
from cluster.runs import evaluation
from tests.integration.conftest import Command, contents
from tests.integration.test_evaluate import bytes_of, failing, hits, table_of

INPUT = ["--model-dir", "model.keras", "--target-data-dir", "data/negative/6"]
HERE = ["--num-workers", "0", "--verbose", "1"]
FEW = ["--num-particles", "8", "--num-iterations", "8"]
METHOD = ["--method", "Arachne-v2", *FEW]
WORDS = ["evaluate", *INPUT, "--output-dir", "out", "--num-runs", "2", *HERE]

SAVED = "out/repaired_model_0/repair/model.keras"
MODEL = ("patch.arrow", "repair/model.keras", "repair/repaired.json")


def rows_of() -> list[dict[str, Any]]:
    return table_of(Path("out/evaluate.arrow"), EVALUATION_BY_METHOD)


def test_a_mixture(workspace: Path, command: Command) -> None:
    Path("goals.toml").write_text("[[require]]\nmax_drop = 0.5\n", encoding="utf-8")
    few = [*INPUT, "--method", "offsets", *FEW, "--test-data", "data/test.h5", "--requirements", "goals.toml", *HERE]
    before = contents(workspace)
    done = command(*WORDS, *few, "--seed", "3", "--num-runs", "1")
    assert done.code == 0 and "warning: " not in done.err, done.err
    assert {path: what for path, what in contents(workspace).items() if path in before} == before
    assert set(bytes_of(Path("out/repaired_model_0"))) == set(MODEL)
    (row,) = rows_of()
    assert [row[name] for name in ("run", "seed", "label", "method", "failed")] == [0, 3, 6, "offsets", False]
    first, after = hits(Path("model.keras")), hits(Path(SAVED))
    assert row["search_repaired"] == after["negative"].sum() > 0
    assert row["search_broken"] == (~after["positive"]).sum()
    assert row["test_broken"] == (first["test"] & ~after["test"]).sum() > 0
    assert (row["offer"], row["num_grad"], row["stop"], row["validation_rr"]) == ("step 1", None, None, None)
    assert 0 < row["changed"] <= 10
    lines = Path("out/result.txt").read_text().split("\n")
    assert lines[:3] == ["# Settings", "dataset: None", "method: offsets"] and not any("num_grad" in x for x in lines)
    assert lines[7:11] == ["num_particles: 8", "num_iterations: 8", "num_runs: 1", ""]
    assert lines[11:13] == ["# Results", told_of(row)]
    assert done.out.endswith("created files:\nout/repaired_model_0\nout/result.txt\nout/evaluate.arrow\n")


def told_of(row: dict[str, Any]) -> str:
    return f"{row['run']}: RR {row['search_rr']:.2f}%, BR {row['search_br']:.2f}%"


def test_run_k_is_a_repair_of_optimize(workspace: Path, command: Command) -> None:
    done = command(*WORDS, *(*METHOD, "--seed", "3", "--sweep", "optimiser=DE,PSO"))
    assert done.code == 0, done.err
    rows = rows_of()
    assert [(row["setting"], row["seed"]) for row in rows] == [
        (f"optimiser={name}", seed) for name in ("DE", "PSO") for seed in (3, 4)
    ]
    assert len({row["fitness"] for row in rows}) == 4
    for name, seed in (("DE", 4), ("PSO", 3)):
        more = ["--optimiser", name, "--seed", seed, "--output-dir", f"one{seed}", "--run-dir", f"run{seed}"]
        assert command("optimize", *INPUT, *METHOD, *more, *HERE).code == 0
        made = Path(f"out/optimiser={name}")
        assert "num_particles: 8\nnum_iterations: 8" in (made / "result.txt").read_text()
        assert bytes_of(made / f"repaired_model_{seed - 3}") == bytes_of(Path(f"one{seed}"))


def test_stopped_and_resumed(workspace: Path, command: Command, luck: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*WORDS, "--method", luck, "--sweep", "num_particles=4,5", "--num-runs", "1", "--verbose", "2"]
    before = contents(workspace)
    ran: list[str] = []
    real = works.value_of

    def counted(work: Any, tail: Any) -> Any:
        ran.append(work.name)
        return real(work, tail)

    monkeypatch.setattr(works, "value_of", counted)
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "save_values", failing(evaluation.save_values, 2, KeyboardInterrupt()))
        done = command(*words, "--resume")
    assert (done.code, done.out, len(ran)) == (130, "", 2)
    left = {path: what for path, what in contents(workspace).items() if not path.startswith("out")}
    assert left == before and [path.name for path in Path("out").iterdir()] == [".evaluate.unfinished"]
    ran.clear()
    resumed = command(*words, "--resume")
    again = command(*words, "--resume")
    assert resumed.code == again.code == 0 and again.out == resumed.out and not ran
    found = bytes_of(Path("out"))
    assert command(*words).out == resumed.out and len(ran) == 2
    assert bytes_of(Path("out")) == found
    for particles in (4, 5):
        assert f"Evaluate results num_particles={particles}\nRR/BR\n    0: RR " in resumed.out
    assert {row["setting"] for row in rows_of()} == {"num_particles=4", "num_particles=5"}


def test_runs_that_fail(workspace: Path, command: Command, luck: str) -> None:
    """A failed run has a line and a row with its reason, and no model, be it an earlier one of another method."""
    for name in ("localized_data_1/weights.csv", "repaired_model_1/weights.csv", "repaired_model_1/repair/model.keras"):
        Path("out", name).parent.mkdir(parents=True, exist_ok=True)
        Path("out", name).write_text("of an earlier evaluation")
    mine = Path("out/repaired_model_1/mine")
    mine.write_text("mine")
    words = [*WORDS, "--method", luck, "--num-runs", "3", "--verbose", "0"]
    why = "seed 1 is odd, expected luck"
    for more in ([], ["--resume"]):
        done = command(*words, *more)
        assert (done.code, done.out) == (4, ""), done.err
        first, second = done.err.splitlines()
        assert first == f"warning: run 1 failed: {why}"
        assert second.startswith("warning: run 2 failed: loaded again, the repaired model gives row ")
    model = {f"repaired_model_0/{name}" for name in MODEL}
    assert set(bytes_of(Path("out"))) == {*model, "repaired_model_1/mine", "result.txt", "evaluate.arrow"}
    assert not Path("out/localized_data_1").exists()
    good, bad, worse = rows_of()
    assert worse["failed"] and worse["note"] in second and worse["changed"] is None
    assert [good[name] for name in ("failed", "method", "changed", "fitness")] == [False, "Luck of mine", 1, 1.0]
    assert [bad[name] for name in ("failed", "note", "search_rr", "seed")] == [True, why, None, 1]
    jobs = read_table(Path("out/evaluate-run"), "jobs").to_pylist()
    assert [(job["state"], job["note"], job["chosen"]) for job in jobs] == [
        ("done", "lucky", True),
        ("failed", why, False),
        ("failed", worse["note"], False),
    ]
    told = command("report", "out/evaluate-run").out
    assert "exit code 4" in told and "searches: 1 done, 2 failed" in told and f"Luck of mine-s1 failed: {why}" in told
    rates = told_of(good)[3:]
    text = Path("out/result.txt").read_text()
    assert f"0: {rates}\n1: failed: {why}\n2: failed: " in text and text.endswith(f"\n\nAverage: {rates}")
    assert "num_runs: 3" in text and "num_particles" not in text
    done = command(*words, "--verbose", "2", "--resume")
    assert f"    0: {rates}\n\n    1: failed: {why}\n" in done.out and "\nlucky\n" in done.out
    assert done.out.endswith("out/repaired_model_0 … 2\nout/result.txt\nout/evaluate.arrow\n")


def test_validation_chooses(workspace: Path, command: Command, luck: str) -> None:
    words = [*WORDS, "--method", luck, "--num-runs", "1"]
    patch = Path("out/repaired_model_0/patch.arrow")
    patch.parent.mkdir(parents=True)
    patch.write_text("of an earlier evaluation")
    done = command(*words, "--val-data", "data/val.h5")
    assert done.code == 0 and "\n1 of 1 runs keep the baseline model: it is copied unchanged\n" in done.out
    (row,) = rows_of()
    names = ("offer", "changed", "validation_repaired", "validation_broken", "search_rr", "search_br")
    assert [row[name] for name in names] == ["nothing", 0, 0, 0, 0.0, 0.0] and row["chance"] is not None
    assert not patch.exists() and row["validation_wrong"] > 0
    same = [np.array(keras.saving.load_model(path, compile=False).get_weights()[-1]) for path in ("model.keras", SAVED)]
    assert (same[0] == same[1]).all()


def test_all_runs_fail(workspace: Path, command: Command, luck: str) -> None:
    before = contents(workspace)
    done = command(*WORDS, "--method", luck, "--seed", "5", "--num-runs", "1", "--verbose", "0")
    assert (done.code, done.out) == (1, "")
    assert done.err == "error: Luck of mine cannot repair this model: seed 5 is odd, expected luck\n"
    assert contents(workspace) == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--method", "CrossFit", "--fronts", "2"], ("--fronts is of Arachne and the method is CrossFit",)),
        (["--method", "WiSE-FT", "--optimiser", "DE"], ("--optimiser means nothing to WiSE-FT, which does not",)),
        (
            ["--method", "Arachne-v2", "--sweep", "velocity_phi=5,6"],
            ("--velocity-phi is of PSO and Arachne-v2 searches by DE, expected --optimiser too",),
        ),
        (
            ["--method", "NeuRecover", "--verbose", "0"],
            ("NeuRecover compares checkpoints of the training",),
        ),
        (["--method", "NeuRecover", "--weights-dir", "no"], ("no: no such folder, expected one with checkpoints",)),
        (
            ["--requirements", "no.toml"],
            ("--requirements is of CrossFit and of --objective", "and the method is Arachne"),
        ),
        (["--method", "offsets", "--positive-weight", "5"], ("--positive-weight means nothing to offsets",)),
        (["--method", "head", "--sweep", "num_particles=4,5"], ("'num_particles=4,5' and head has nothing to sweep",)),
        (
            ["--method", "offsets", "--sweep", "fronts=1,2"],
            ("sweep is 'fronts=1,2', expected NAME=VALUE,… with NAME one of num_particles, num_iterations, min_itera",),
        ),
        (
            ["--method", "CrossFit", "--sweep", "num_grad=1,2"],
            (
                "'num_grad=1,2', expected NAME=VALUE,… with NAME one of num_particles, num_iterations, "
                "min_iteration_range, optimiser, velocity_phi, phi_split, velocity_floor, de_factor, de_crossover\n",
            ),
        ),
        (["--method", "offsets", "--num-runs", "0"], ("num_runs is 0, expected at least 1",)),
        (
            ["--method", "offsets", "--target-data-dir", "data/negative"],
            ("data/negative: is not below a folder negative",),
        ),
        (["--method", "offsets", "--val-data", "data/nothing.h5"], ("data/nothing.h5",)),
    ],
)
def test_refused(words: list[str], says: tuple[str, ...], workspace: Path, refused: Callable[..., str]) -> None:
    refused(*WORDS, *words, says=says)


@pytest.mark.slow
def test_crossfit(workspace: Path, command: Command) -> None:
    few = ["--recipes", "2:1:epochs=2", "--folds", "3", "--sweep", "optimiser=PSO,DE", *FEW]
    done = command(*WORDS, "--method", "CrossFit", "--val-data", "data/val.h5", *few)
    assert done.code == 0, done.err
    rows = rows_of()
    assert [row["setting"] for row in rows] == ["optimiser=PSO"] * 2 + ["optimiser=DE"] * 2
    assert all(row["chance"] is not None for row in rows) and len({row["fitness"] for row in rows}) == 4
    assert "num_particles: 8\nnum_iterations: 8" in Path("out/optimiser=DE/result.txt").read_text()
