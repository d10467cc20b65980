"""`evaluate`: its rates against a plain script, its files against `localize` and `optimize`, and what stops it."""

from __future__ import annotations

import errno
import itertools
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pyarrow as pa
import pytest

from cli.commands.evaluate import command as evaluate_command
from cli.commands.evaluate import make_setting, parse_sweeps
from cli.shared.options import SWEPT
from cluster.compute.compute import Compute
from cluster.records.schema import EVALUATION
from cluster.records.store import read_facts, read_table
from cluster.runs import evaluate as evaluate_run
from cluster.runs import evaluate_staging as staging
from cluster.runs import evaluation
from engine.search.settings import OPTIMISER_SETTINGS, own_fields
from tests.integration.conftest import Command, contents
from tests.support.digests import files_of

Refused = Callable[..., str]

LEGACY = Path(__file__).parents[1] / "data" / "legacy"
HERE = ["--num-workers", "0", "--verbose", "1"]
MODEL = ["--model-dir", "model.keras"]
NEGATIVES = ["--target-data-dir", "data/negative/6"]
SEARCH = ["--num-iterations", "6", "--positive-weight", "60"]
"""A search that breaks some of what worked."""
FEW = ["--num-particles", "5", "--num-iterations", "2"]
WORDS = ["evaluate", "--dataset", "fashion-mnist", *MODEL, *NEGATIVES, "--output-dir", "out"]


def bytes_of(root: Path) -> dict[str, bytes]:
    """The content of every file below a folder but for records, which say when and where."""
    files = [path.relative_to(root) for path in sorted(root.rglob("*")) if path.is_file()]
    return {str(path): (root / path).read_bytes() for path in files if path.parts[0] != "evaluate-run"}


def table_of(path: Path, schema: pa.Schema = EVALUATION) -> list[dict[str, Any]]:
    found = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    assert found.schema.remove_metadata().equals(schema, check_metadata=True)
    assert all(field.metadata[b"description"] for field in found.schema)
    rows: list[dict[str, Any]] = found.to_pylist()
    return rows


def succeed(command: Command, *words: object) -> str:
    """Runs a command that must succeed without a warning; returns what it printed."""
    done = command(*words)
    assert done.code == 0 and "warning: " not in done.err, done.err
    return done.out


SETS = {
    "negative": "data/negative/6/repair.h5",
    "positive": "data/positive/repair.h5",
    "validation": "data/val.h5",
    "test": "data/test.h5",
}


def hits(model: Path) -> dict[str, np.ndarray]:
    """Which rows of every set a saved model gets right, by its own predictions and nothing of ours."""
    images, labels = [], [labels_of(file) for file in SETS.values()]
    for file in SETS.values():
        with h5py.File(file) as rows:
            images.append(rows["images"][:])
    scores = keras.saving.load_model(model, compile=False).predict(np.concatenate(images), verbose=0)
    right = scores.argmax(axis=1) == np.concatenate(labels)
    return dict(zip(SETS, np.split(right, np.cumsum([len(values) for values in labels])[:-1]), strict=True))


def labels_of(file: str) -> np.ndarray:
    with h5py.File(file) as rows:
        labels: np.ndarray = rows["labels"][:].argmax(axis=1)
    return labels


def test_rates_equal_a_plain_script(workspace: Path, command: Command) -> None:
    sweep = ["--sweep", "num_particles=6,14", "--num-runs", "2", "--seed", "6"]
    held_out = ["--val-data", "data/val.h5", "--test-data", "data/test.h5"]
    out = succeed(command, *WORDS, *SEARCH, *sweep, *held_out, *HERE)
    rows = table_of(Path("out/evaluate.arrow"))
    settings = ["num_particles=6", "num_particles=14"]
    assert [(row["setting"], row["run"], row["seed"]) for row in rows] == [
        (setting, run, 6 + run) for setting in settings for run in range(2)
    ]
    before = hits(Path("model.keras"))
    found: dict[str, list[tuple[float, float]]] = {"search": [], "validation": [], "test": []}
    for row in rows:
        after = hits(Path("out", row["setting"], f"repaired_model_{row['run']}", "repair", "model.keras"))
        found["search"].append((100 * after["negative"].mean(), 100 * (1 - after["positive"].mean())))
        for split in ("validation", "test"):
            wrong = ~before[split] & (labels_of(SETS[split]) == 6)
            rr, br = after[split][wrong].mean(), (~after[split])[before[split]].mean()
            found[split].append((100 * rr, 100 * br))
            assert (row[f"{split}_wrong"], row[f"{split}_right"]) == (wrong.sum(), before[split].sum())
        for split, values in found.items():
            assert (row[f"{split}_rr"], row[f"{split}_br"]) == pytest.approx(values[-1], abs=1e-12)
            assert row[f"{split}_rr"] == 100 * row[f"{split}_repaired"] / row[f"{split}_wrong"]
            assert row[f"{split}_br"] == 100 * row[f"{split}_broken"] / row[f"{split}_right"]
    every = np.array(list(found.values()))
    assert (every[0].std(axis=0) > 0).all(), "the runs have to differ for this to be a test"
    assert ((every > 0) & (every < 100)).any(axis=1).all(), "some rows have to stay wrong and some to break"

    for split, values in found.items():
        for setting, mine in zip(settings, np.split(np.array(values), 2), strict=True):
            rr, br = mine.T
            told = [rr.mean(), rr.std(ddof=1), rr.max(), rr.min(), br.mean(), br.std(ddof=1), br.min(), br.max()]
            line = rf"^{setting} +\d+ +2 +" + " +".join(f"{value:.2f}" for value in told) + "$"
            (_, _, rest) = out.partition(f"{split} rows, in %")
            assert re.search(line, rest.partition(" rows, in %")[0], re.MULTILINE), (line, rest)

    for setting, mine in zip(settings, np.split(np.array(found["search"]), 2), strict=True):
        lines = Path("out", setting, "result.txt").read_text().split("\n")
        assert lines[7:10] == [f"output_dir: out/{setting}", f"num_particles: {setting[14:]}", "num_iterations: 6"]
        assert lines[12:] == [
            "# Results",
            *(f"{run}: RR {rr:.2f}%, BR {br:.2f}%" for run, (rr, br) in enumerate(mine)),
            "",
            "Average: RR {:.2f}%, BR {:.2f}%".format(*mine.mean(axis=0)),
        ]


def test_files_are_those_of_localize_and_optimize(workspace: Path, command: Command) -> None:
    search = [*MODEL, *NEGATIVES, *SEARCH, "--num-particles", "8"]
    before = contents(workspace)
    sweep = ["--num-grad", "40", "--sweep", "fronts=1,3"]
    succeed(command, *WORDS, *search, *sweep, "--num_runs", "2", "--seed", "3", *HERE)
    assert {path: what for path, what in contents(workspace).items() if path in before} == before
    repaired = {path: path.read_bytes() for path in Path("out").glob("*/repaired_model_*/weights.csv")}
    assert len(set(repaired.values())) == 4
    inputs = {}
    for fronts, run in ((1, 1), (3, 0)):
        made = Path(f"out/fronts={fronts}")
        assert (made / "result.txt").read_text().split("\n")[4] == "num_grad: 40"
        succeed(command, "localize", *MODEL, *NEGATIVES, "--num-grad", "40", "--fronts", fronts, *HERE)
        for name in ("weights.csv", "pareto_front.png"):
            assert (made / f"localized_data_{run}" / name).read_bytes() == Path("data/negative/6", name).read_bytes()
        outputs = ["--output-dir", f"optimized-{fronts}", "--run-dir", f"run-{fronts}"]
        succeed(command, "optimize", *search, "--seed", 3 + run, *outputs, *HERE)
        assert bytes_of(made / f"repaired_model_{run}") == bytes_of(Path(f"optimized-{fronts}"))
        rows = (made / "localized_data_0" / "weights.csv").read_text().split()
        inputs[fronts] = {int(row.split(",")[1]) for row in rows}
    assert any(unit not in inputs[1] for unit in inputs[3] if unit < max(inputs[1])), "settings take the same inputs"


def test_the_toolkits_flags(workspace: Path, command: Command) -> None:
    words = ["--dataset=fashion-mnist", "--method=Arachne", "--model_dir=model.keras", "--num_workers=0"]
    words += ["--target_data_dir=data/negative/6/", "--positive_inputs_dir=data/positive/", "--num_runs=2"]
    words += ["--num_particles=4", "--num_iterations=2", "--min_iteration_range=3", "--num_input_pos_sampled=50"]
    words += ["--velocity_phi=4.2", "--target_layer=8", "--batch_size=32", "--verbose=2", "--positive_weight=7.5"]
    done = command("evaluate", *words)
    assert done.code == 0, done.err
    folder = Path("data/negative/6")
    row, other = table_of(folder / "evaluate.arrow")
    assert (row["run"], row["seed"], other["run"], other["seed"]) == (0, 0, 1, 1)
    wrong = row["search_wrong"]
    assert (row["setting"], row["label"], row["num_grad"]) == ("", 6, 20 * wrong)
    assert (row["positive_weight"], row["iterations"], row["stop"]) == (7.5, 2, "iterations")
    assert row["weights"] == len((folder / "localized_data_0" / "weights.csv").read_text().splitlines())
    assert all(row[name] is None for name in row if name.startswith(("validation_", "test_")))
    text = (folder / "result.txt").read_text()
    number = r"\d+\.\d\d%"
    assert re.fullmatch(
        "# Settings\ndataset: FashionMNIST\nmethod: Arachne\nmodel_dir: model.keras\n"
        f"num_grad: {20 * wrong}\ntarget_data_dir: data/negative/6\npositive_inputs_dir: data/positive\n"
        "output_dir: data/negative/6\nnum_particles: 4\nnum_iterations: 2\nnum_runs: 2\n\n# Results\n"
        f"0: RR {number}, BR {number}\n1: RR {number}, BR {number}\n\nAverage: RR {number}, BR {number}",
        text,
    )
    first, second = text.split("\n")[13:15]
    bar = "=" * 17
    assert f"{bar}\nEvaluate results\nRR/BR\n    {first}\n\n    {second}\n\n{bar}\n" in done.out
    assert done.out.endswith(
        f"created files:\n{folder}/localized_data_0 … 1\n{folder}/repaired_model_0 … 1\n{folder}/result.txt\n"
        f"{folder}/evaluate.arrow\n"
    )
    for run in range(2):
        assert sorted(path.name for path in (folder / f"localized_data_{run}").iterdir()) == [
            "pareto_front.png",
            "weights.csv",
        ]
        assert sorted(path.name for path in (folder / f"repaired_model_{run}").iterdir()) == ["repair", "weights.csv"]
    assert not list(workspace.rglob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "told"),
    [
        (["--positive-weight", "60", "--num-input-pos-sampled", "200"], "search: on 2 workers (4 searches on the 2"),
        (["--method", "offsets"], "4 repairs: on 2 workers"),  # two settings of two seeds are one grid
        (["--method", "Arachne-v2"], "4 repairs: on 2 workers"),
    ],
)
def test_the_same_bits_on_workers(method: list[str], told: str, workspace: Path, command: Command) -> None:
    words = [*WORDS, *method, "--num-iterations", "6", "--num-runs", "2", "--sweep", "num_particles=6,9"]
    words += ["--test-data", "data/test.h5"]
    succeed(command, *words, *HERE)
    here = dict(files_of(Path("out")))
    shutil.rmtree("out")
    done = command(*words, "--num-workers", "2")
    assert done.code == 0, done.err
    assert told in done.err
    assert dict(files_of(Path("out"))) == here
    assert len({digest for path, digest in here.items() if path.endswith("model.keras")}) == 4


def test_records(workspace: Path, command: Command) -> None:
    words = [*WORDS, *FEW, "--num-runs", "2", "--test-data", "data/test.h5", *HERE]
    run = Path("out/evaluate-run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "save_repaired", failing(evaluation.save_repaired, 2, KeyboardInterrupt()))
        assert command(*words).code == 130
    assert not run.exists() and "evaluate, 6 Shirt, interrupted" in succeed(command, "report", run)
    succeed(command, *words, "--resume")
    facts = read_facts(run)
    assert [facts[name] for name in ("format", "kind", "state", "labels")] == [2, "evaluate", "done", [6]]
    rows, jobs = table_of(Path("out/evaluate.arrow")), read_table(run, "jobs").to_pylist()
    for name in ("seed", "fitness", "iterations", "stop", "weights", "positive_weight"):
        assert [job[name] for job in jobs] == [row[name] for row in rows]
    assert {(job["state"], job["chosen"]) for job in jobs} == {("done", True)}
    labels = [row for row in read_table(run, "labels").to_pylist() if row["stage"] == "repaired"]
    for row, job in zip(rows, jobs, strict=True):
        mine = [label for label in labels if label["job"] == job["job"]]
        for split, column, counted in (
            ("negative", "repaired", row["search_repaired"]),
            ("positive", "broken", row["search_broken"]),
            ("test", "broken", row["test_broken"]),
        ):
            assert sum(label[column] for label in mine if label["split"] == split) == counted
    assert sum(label["total"] for label in labels if label["split"] == "test") == 2 * 120
    told = succeed(command, "report", run)
    assert "2 done" in told and succeed(command, "watch", run) == told
    assert succeed(command, "patch", "show", f"{run}:{jobs[1]['job']}")


def test_saved_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    """A Keras 2 SavedModel, whose repaired form is the folder repair/ itself; no positive inputs, several labels."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(LEGACY / "sequential-savedmodel", "model")
    random = np.random.default_rng(3)
    with h5py.File("repair.h5", "w") as file:
        file["images"] = random.random((60, 28, 28, 1), dtype=np.float32)
        file["labels"] = np.eye(10, dtype=np.uint8)[random.integers(0, 10, 60)]
        file.attrs["preprocess"] = "pad"
    succeed(command, "target", "--model-dir", "model", "--data-dir", ".", *HERE)
    with h5py.File("positive/repair.h5", "w") as file:
        file["images"], file["labels"] = np.empty(0), np.empty(0)
    words = ["--model-dir", "model", "--target-data-dir", "negative", "--output-dir", "out", "--num-runs", "2", *FEW]
    out = succeed(command, "evaluate", *words, *HERE)
    rows = table_of(Path("out/evaluate.arrow"))
    assert {row["label"] for row in rows} == {-1}
    assert {(row["search_right"], row["search_broken"], row["search_br"]) for row in rows} == {(0, 0, None)}
    assert re.search(r"as given +\d+ +2 +[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+( +-){4}$", out, re.MULTILINE)
    assert "dataset: None" in Path("out/result.txt").read_text()
    assert Path("out/result.txt").read_text().endswith("BR nan%")
    for run in range(2):
        assert Path(f"out/repaired_model_{run}/repair/saved_model.pb").is_file()
        assert '"pad"' in Path(f"out/repaired_model_{run}/repaired.json").read_text()


def test_several_ways_of_localisation_and_of_search() -> None:
    words = ["--model-dir", "m", "--target-data-dir", "t", "--num-iterations", "7", "--positive-weight", "30"]
    words += ["--sweep", "velocity-phi=4.1,5", "--sweep=fronts=1,02", "--sweep", "phi_split=True,no"]
    context = evaluate_command.make_context("evaluate", words)
    found = [make_setting(context.params, swept) for swept in parse_sweeps(context.params["sweep"], context)]
    assert [(setting.search.swarm.phi, setting.fronts, setting.search.swarm.phi_split) for setting in found] == [
        (phi, fronts, split) for phi in (4.1, 5.0) for fronts in (1, 2) for split in (True, False)
    ]
    assert found[0].name == "velocity_phi=4.1,fronts=1,phi_split=True"
    assert found[-1].name == "velocity_phi=5,fronts=2,phi_split=False"
    assert {(setting.search.num_iterations, setting.search.positive_weight) for setting in found} == {(7, 30.0)}
    assert {(setting.search.swarm.num_particles, setting.num_grad, setting.impact) for setting in found} == {
        (100, None, "mean")
    }


OWN = {
    name: {option.name for option in own_fields(settings).values()}
    for name, settings in reversed(OPTIMISER_SETTINGS.items())
}


@pytest.mark.parametrize("name", SWEPT)
def test_every_swept_name_is_an_option(name: str) -> None:
    optimiser = next((other for other, settings in OWN.items() if name in settings), "PSO")
    words = [] if name == "optimiser" else ["--optimiser", optimiser]
    context = evaluate_command.make_context("evaluate", ["--model-dir", "m", "--target-data-dir", "t", *words])
    value = context.params[name]
    (swept,) = parse_sweeps([f"{name}={1 if value is None else value}"], context)
    assert make_setting(context.params, swept).name == f"{name}={1 if value is None else value}"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--num-runs", "0"], ("num_runs is 0, expected at least 1",)),
        (["--num-runs", "2", "--seed", 2**63 - 1], ("seed is 9223372036854775807",)),
        (["--sweep", "particles=20"], ("sweep is 'particles=20'", "NAME one of num_particles, ")),
        (["--sweep", "num_particles=20,many"], ("sweep is 'num_particles=20,many'", "'many' is not a valid integer")),
        (["--sweep", "num_particles"], ("sweep is 'num_particles'", "'' is not a valid integer")),
        (["--sweep", "forward_impact=mean,all"], ("'all' is not one of", "as --forward_impact takes them")),
        (["--sweep", "num_particles=20,0"], ("num_particles is 0, expected at least 1",)),
        (["--sweep", "optimiser=DE,tabu"], ("'tabu' is not one of", "as --optimiser takes them")),
        (["--sweep", "optimiser=PSO,DE", "--bound", "2"], ("bound is of DE and random", "optimiser is PSO")),
        (["--optimiser", "DE", "--velocity-phi", "5"], ("velocity_phi is of PSO and the optimiser is DE, expected",)),
        (["--sweep", "positive_weight=-1"], ("positive_weight is -1.0",)),
        (["--sweep", "num_particles=20,020"], ("'num_particles=20,020' and has a value twice",)),
        (["--sweep", "fronts=1", "--sweep", "fronts=2"], ("fronts is given twice, expected one --sweep",)),
        (["--sweep", "fronts=1,2", "--fronts", "3"], ("fronts is given twice",)),
        (
            ["--target-data-dir", "data/nothing", "--positive-inputs-dir", "data/positive"],
            ("data/nothing does not exist",),
        ),
        (["--target-data-dir", "data/positive"], ("is not below a folder negative, expected --positive-inputs-dir",)),
        (["--target-data-dir", "data/negative/12"], ("12 no label of", "expected 0 to 9")),
        (["--positive-inputs-dir", "data/nothing"], ("data/nothing does not exist",)),
        (["--val-data", "data/nothing.h5"], ("data/nothing.h5",)),
        (["--num-particles", 10**12], ("particles", "GiB are free")),
        (["--num-runs", 10**9], ("1000000000 searches of ", "need at least", "at most", " searches")),
    ],
)
def test_bad_words(words: list[object], says: tuple[str, ...], workspace: Path, refused: Refused) -> None:
    refused(*WORDS, *HERE, *words, says=says)


@pytest.mark.parametrize("file", ["data/negative/6/repair.h5", "data/positive/repair.h5", "data/val.h5"])
@pytest.mark.parametrize("damage", ["cut", "shape", "pixel"])
def test_damaged_rows(file: str, damage: str, workspace: Path, refused: Refused) -> None:
    path = workspace / file
    content = path.read_bytes()
    with h5py.File(path) as rows:
        images, labels = rows["images"][:], rows["labels"][:]
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        images[3, 4, 5, 0] = np.nan
        with h5py.File(path, "w") as rows:
            rows["images"] = images if damage == "pixel" else np.abs(images[:, 8:])
            rows["labels"] = labels
    says = {"cut": "is damaged or cut short", "shape": "images of shape (24, 32, 3)", "pixel": "pixels that are NaN"}
    words = [*WORDS, "--val-data", "data/val.h5", *HERE, "--verbose", "0"]
    refused(*words, *FEW, says=(str(path), says[damage]))
    if (damage, path.parent.name) == ("cut", "6"):
        refused(*words, "--method", "offsets", says=(str(path), says[damage]))


def test_something_in_the_way(workspace: Path, refused: Refused, command: Command) -> None:
    words = [*WORDS, *FEW, "--num-runs", "2", *HERE]
    out = Path("out")
    out.write_text("mine")
    refused(*words, says=(f"{workspace}/out is a file, expected a folder",))
    out.unlink()
    out.mkdir()
    for name in ("localized_data_1", "repaired_model_1"):
        (out / name).write_text("mine")
        refused(*words, says=(f"{workspace}/out/{name} is a file, expected a folder",))
        (out / name).unlink()
    for name in ("result.txt", "evaluate.arrow", "repaired_model_0/weights.csv"):
        (out / name).mkdir(parents=True)
        refused(*words, says=(f"{workspace}/out/{name} is a folder, expected a file",))
        (out / name).rmdir()
    mine = out / "evaluate-run" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    refused(*words, "--overwrite", says=(f"{workspace}/out/evaluate-run holds no run, expected one of an earlier",))
    shutil.rmtree(mine.parent)
    notes = out / "repaired_model_1" / "repair" / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")
    refused(*words, says=("repair holds no repaired model", "--overwrite"))
    succeed(command, *words, "--overwrite")
    assert not notes.exists()
    before = contents(workspace)
    inside = command(*words, "--overwrite", "--model-dir", "out/repaired_model_1/repair")
    assert (inside.code, contents(workspace)) == (2, before)
    assert "repair holds the model to repair, expected another --output-dir" in inside.err


def test_again(workspace: Path, command: Command) -> None:
    words = [*WORDS, *FEW, "--num-runs", "2", *HERE]
    succeed(command, *words)
    first = bytes_of(Path("out"))
    for place in ("out/repaired_model_0/repair/more", "out/repaired_model_0/mine", "out/mine"):
        Path(place).write_text("mine")
    succeed(command, *words, "--seed", "2")
    again = bytes_of(Path("out"))
    assert again.keys() == first.keys() | {"repaired_model_0/mine", "mine"}
    assert all(again[name] != first[name] for name in first if name.startswith("repaired"))
    assert {row["seed"] for row in table_of(Path("out/evaluate.arrow"))} == {2, 3}


def failing(real: Callable[..., Any], at: int, error: BaseException) -> Callable[..., Any]:
    """A function that does what another does until a call at which it fails."""
    calls = itertools.count(1)

    def call(*arguments: Any, **settings: Any) -> Any:
        if next(calls) == at:
            raise error
        return real(*arguments, **settings)

    return call


@pytest.mark.parametrize("earlier", [False, True])
def test_stopped(earlier: bool, workspace: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*WORDS, *FEW, "--num-runs", "2", *HERE, "--verbose", "0"]
    if earlier:
        succeed(command, *words, "--seed", "7")
    before = contents(workspace)
    full = OSError(errno.ENOSPC, "No space left on device")
    for where, name, at, error, code, says in (
        (Compute, "run_tasks", 1, KeyboardInterrupt(), 130, "error: interrupted"),
        (evaluation, "save_repaired", 2, full, 1, "no space is left on the disk"),
        (
            Compute,
            "predict",
            3,
            MemoryError("none left"),
            1,
            "error: memory ran out (none left), expected less at once",
        ),
        (evaluate_run, "write_evaluation", 1, KeyboardInterrupt(), 130, "error: interrupted"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, failing(getattr(where, name), at, error))
            done = command(*words)
        assert (done.code, done.out, done.err.strip().count("\n")) == (code, "", 0)
        assert says in done.err
        if name != "run_tasks":
            assert read_facts(Path("out/.evaluate.unfinished"))["state"] in ("interrupted", "failed")
            shutil.rmtree("out/.evaluate.unfinished")
            if not earlier:
                Path("out").rmdir()
        assert contents(workspace) == before


def test_stopped_while_it_moves(workspace: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*WORDS, *FEW, "--num-runs", "2", *HERE]
    succeed(command, *words)
    with monkeypatch.context() as patch:
        stopping = failing(staging.replace_directory, 2, KeyboardInterrupt())
        patch.setattr(staging, "replace_directory", stopping)
        assert command(*words, "--seed", "2").code == 130
    assert not Path("out/result.txt").exists()
    assert not Path("out/evaluate.arrow").exists()
    for run in range(2):
        keras.saving.load_model(f"out/repaired_model_{run}/repair/model.keras", compile=False)
    succeed(command, *words, "--seed", "2", "--resume")
    resumed = bytes_of(Path("out"))
    shutil.rmtree("out")
    succeed(command, *words, "--seed", "2")
    assert bytes_of(Path("out")) == resumed


def test_weights_of_another_layer(workspace: Path, command: Command) -> None:
    words = [*WORDS, *FEW, "--num-runs", "2", "--num-grad", "5", *HERE]
    succeed(command, *words)
    Path("out/repaired_model_0/patch.arrow").write_text("of another method")
    succeed(command, *words, "--target-layer", "conv2d_2")
    for run in range(2):
        for kind in ("localized_data", "repaired_model"):
            names = {path.name for path in Path(f"out/{kind}_{run}").iterdir()}
            assert "weights.arrow" in names and not {"weights.csv", "patch.arrow"} & names


@pytest.mark.parametrize("method", ["Arachne", "head"])
def test_label_without_failures(method: str, workspace: Path, command: Command) -> None:
    before = contents(workspace)
    words = [word.replace("negative/6", "negative/9") for word in WORDS]
    out = succeed(command, *words, "--method", method, *HERE)
    assert out == "data/negative/9: the label has no failures, there is nothing to evaluate\n"
    assert contents(workspace) == before


def test_rows_that_another_model_divided(workspace: Path, command: Command) -> None:
    words = ["--target-data-dir", "data/positive", "--positive-inputs-dir", "data/negative/6", "--output-dir", "out"]
    done = command("evaluate", *MODEL, *words, *FEW, "--num-runs", "1", *HERE)
    assert done.code == 0
    (row,) = table_of(Path("out/evaluate.arrow"))
    positive, negative = row["search_wrong"], row["search_right"]
    assert [line for line in done.err.splitlines() if line.startswith("warning: ")] == [
        f"warning: {workspace}/data/positive: model.keras gets {positive} of {positive} rows right as it is; "
        "they count all the same, but `target` with this model would not have put them there",
        f"warning: {workspace}/data/negative/6: model.keras gets {negative} of {negative} rows wrong as it is; "
        "they count all the same, but `target` with this model would not have put them there",
    ]


def test_held_out_rows_without_the_label(workspace: Path, command: Command) -> None:
    with h5py.File("data/test.h5") as rows:
        images, labels = rows["images"][:], rows["labels"][:]
    kept = labels[:, 6] == 0
    with h5py.File("others.h5", "w") as rows:
        rows["images"], rows["labels"] = images[kept], labels[kept]
    out = succeed(command, *WORDS, *FEW, "--num-runs", "1", "--test-data", "others.h5", *HERE)
    (row,) = table_of(Path("out/evaluate.arrow"))
    assert (row["test_wrong"], row["test_repaired"], row["test_rr"]) == (0, 0, None)
    assert row["test_br"] == 100 * row["test_broken"] / row["test_right"]
    assert "test rows, in %: RR of 0 to repair" in out
