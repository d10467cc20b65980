"""`batch --part` on several clusters, and `merge-runs`: the same bits as one command, and one sentence where not."""

from __future__ import annotations

import io
import itertools
import json
import pkgutil
import re
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from cli.main import run
from cluster.records.store import read_facts, read_table
from engine.core.errors import InputError
from engine.patches.arrow import read_patch
from tests.integration.conftest import Command, Done, contents
from tests.integration.test_batch import DAMAGES
from tests.integration.test_crossfit_batch import BATCH, EASY, FILES, HARD, pooled, require, right, write
from tests.support.batches import CHUNKS, differences, words_of

__all__ = ["right"]  # a fixture

Refused = Callable[..., str]

HERE = ["--num-workers", "0", "--verbose", "0"]
MERGE = ["merge-runs", "run-1", "run-2", "--output-dir", "merged", *HERE]
ALL = {str(number) for number in range(CHUNKS)}


def independent(data: Path, output: object, *more: object) -> list[str]:
    return words_of(data, Path(str(output)), "independent", *HERE, *more)


def searched(directory: Path) -> set[str]:
    """Chunks whose searches are in a run."""
    return {Path(chunk).name for chunk in read_table(directory, "jobs")["chunk"].to_pylist()}


def ended(*directories: Path) -> dict[str, float]:
    """When each search ended."""
    rows = [row for directory in directories for row in read_table(directory, "jobs").to_pylist()]
    return {row["job"]: row["ended"] for row in rows}


@pytest.fixture(scope="module")
def parts(repairsets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both parts of the batch that `undisturbed` is of, in `run-1` and `run-2`, and what the first one printed."""
    root = tmp_path_factory.mktemp("parts")
    for number in (1, 2):
        out = io.StringIO()
        with redirect_stdout(out):
            assert run(independent(repairsets, root / f"run-{number}", "--part", f"{number}/2")) == 0
        (root / f"run-{number}.txt").write_text(out.getvalue(), encoding="utf-8")
    return root


@pytest.fixture
def here(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of them as the current directory."""
    shutil.copytree(parts, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def change(directory: str, **facts: Any) -> None:
    """Change `run.json`; names with dots are of tables in it."""
    path = Path(directory, "run.json")
    found = json.loads(path.read_text(encoding="utf-8"))
    for name, value in facts.items():
        *tables, last = name.split("__")
        table = found
        for each in tables:
            table = table[each]
        table[last] = value
    path.write_text(json.dumps(found), encoding="utf-8")


def test_two_parts_are_as_one_run(here: Path, undisturbed: Path, command: Command) -> None:
    """In any order; nothing is searched again, and each part searched what the other did not."""
    assert searched(Path("run-1")) | searched(Path("run-2")) == ALL
    assert not searched(Path("run-1")) & searched(Path("run-2"))
    done = command("merge-runs", "run-2", "run-1", "--output-dir", "merged", *HERE)
    assert (done.code, done.err) == (0, "")
    assert differences(undisturbed, Path("merged")) == []
    assert len(read_patch(Path("merged/patch.arrow")))
    assert ended(Path("merged")) == ended(Path("run-1"), Path("run-2"))
    facts = read_facts(Path("merged"))
    assert facts["parts"] == [str(here / "run-1"), str(here / "run-2")]
    assert facts["identity"] == read_facts(undisturbed)["identity"]
    assert f"created files:\n{here}/merged\n" in done.out


def test_what_is_said_of_a_part_alone(here: Path, command: Command) -> None:
    sentence = "This is part 1/2 of a run: nothing is decided before `merge-runs` joins all parts."
    printed = Path("run-1.txt").read_text(encoding="utf-8")
    for name in ("report", "watch"):
        done = command(name, "run-1")
        assert (done.code, done.err) == (0, "")
        assert sentence in done.out.splitlines() and printed.startswith(done.out)
        assert "searches: 8 done" in done.out or "searches: 6 done, 2 skipped" in done.out
    assert command("report", "run-1", "--html", "part.html").code == 0
    assert "This is part 1/2 of a run" in Path("part.html").read_text(encoding="utf-8")
    shown = command("patch", "show", "run-1")
    assert shown.code == 2 and "the run has not ended, expected RUN:JOB" in shown.err
    assert sorted(path.name for path in Path("run-1").iterdir() if path.suffix != ".arrow") == ["run.json"]


def test_a_part_that_has_ended_stays_as_it_is(here: Path, repairsets: Path, command: Command, refused: Refused) -> None:
    before = contents(here)
    assert command(*independent(repairsets, "run-1", "--part", "1/2", "--resume")).code == 0
    assert contents(here) == before
    other = 'was begun with part "1/2" and this command has '
    for words, says in (
        (["--resume"], f"{other}nothing, expected the same to resume"),
        (["--part", "2/2", "--resume"], f'{other}"2/2", expected the same to resume'),
        (["--part", "1/2"], "a run is there already, expected a new name or --overwrite"),
    ):
        refused(*independent(repairsets, "run-1", *words), says=(says,))


def test_parts_that_do_not_fit(here: Path, undisturbed: Path, refused: Refused) -> None:
    shutil.copytree("run-1", "again")
    changes: dict[str, dict[str, Any]] = {
        "of-three": {"part__of": 3, "identity__part": "2/3"},
        "other": {"identity__seeds": [7]},
        "newer": {"identity__versions__numpy": "9.0"},
        "odd": {"part": "second"},
        "none": {"part__number": 3},
    }
    for name, facts in changes.items():
        shutil.copytree("run-2", name)
        change(name, **facts)
    Path("empty").mkdir()
    one_run = "expected parts of one run"
    for directories, says in (
        (["run-1"], "part 2/2 is missing, expected all 2 parts"),
        (["run-2"], "part 1/2 is missing, expected all 2 parts"),
        (["run-1", "again", "run-2"], "run-1 and again are both part 1/2, expected each part once"),
        (["run-1", "run-1"], "run-1 and run-1 are both part 1/2, expected each part once"),
        (["run-1", "of-three"], f"run-1 is one of 2 parts and of-three one of 3, {one_run}"),
        (["run-1", "other"], f"run-1 was begun with seeds [0] and other with [7], {one_run}"),
        (["run-1", "newer"], f'and newer with "9.0", {one_run}'),
        (["run-1", str(undisturbed)], f"{undisturbed}: is no part of a run, expected one that was made with --part"),
        (["run-1", "odd"], "odd: is no part of a run, expected"),
        (["run-1", "none"], "none/run.json: is damaged, expected the number of a part"),
        (["run-1", "empty"], "empty: found no run.json, expected the directory of a run"),
        (["run-1", "nowhere"], "nowhere: found no run.json, expected the directory of a run"),
    ):
        refused("merge-runs", *directories, "--output-dir", "merged", *HERE, says=(says,))
    for name in ("run-1", "run-2"):
        change(name, identity__versions__numpy="9.0")
    refused(
        *MERGE,
        says=('run-1 was begun with versions numpy "9.0" and this command has ', "expected the same to merge"),
    )


@pytest.mark.parametrize(
    ("state", "found"),
    [
        ("running", "is still running, or was killed"),
        ("interrupted", "was interrupted"),
        ("failed", "failed"),
        ("done", "has not ended"),
    ],
)
def test_parts_that_have_not_ended(state: str, found: str, here: Path, refused: Refused) -> None:
    change("run-2", state=state)
    refused(*MERGE, says=(f"run-2: part 2/2 {found}, expected it to have ended (run it again with --resume)",))


def test_parts_that_were_damaged_on_the_way(here: Path, refused: Refused) -> None:
    patches = Path("run-2/patches.arrow")
    whole = patches.read_bytes()
    patches.write_bytes(whole[: len(whole) // 2])
    refused(*MERGE, says=("run-2/patches.arrow: is not as part 2/2 left it, expected the same bytes",))
    patches.unlink()
    refused(*MERGE, says=("run-2/patches.arrow: no such file, expected all that part 2/2 left",))
    patches.write_bytes(whole)
    Path("run-2/checkpoint").mkdir()
    Path("run-2/checkpoint/other.npz").write_bytes(b"")
    refused(*MERGE, says=("run-2/checkpoint/other.npz: is not as part 2/2 left it",))
    change("run-2", files=None)
    refused(*MERGE, says=("run-2/", "is not as part 2/2 left it"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--output-dir", "used"], "used: something that is not a run is there already, expected a new name"),
        (["--output-dir", "ours"], "ours: a run is there already, expected a new name or --overwrite"),
        (
            ["--output-dir", "../here/run-1", "--overwrite"],
            "run-1 is a part and --output-dir too, expected a folder of its own",
        ),
        (["--output-dir", "run-2/merged"], "run-2/merged is in run-2, which is a part, expected a folder of its own"),
        (["--output-dir", "run-1/../run-2/deep/er"], "deep/er is in run-2, which is a part, expected a folder of its"),
        (["--val-data", "DATA/test.h5", "--test-data", "DATA/val.h5"], "run-1 was begun with data validation data "),
        (["--model-dir", "nowhere.keras"], "nowhere.keras"),
        (
            ["--target-data-dir", "x"],
            "--target-data-dir is of optimize and the parts are of batch, expected one without the other",
        ),
        (["--gpus-per-worker", "-0.5"], "gpus_per_worker is -0.5"),
        (["--tiles"], "num_workers is 0, expected at least 1 worker"),
    ],
)
def test_options_of_a_merge(words: list[str], says: str, here: Path, repairsets: Path, refused: Refused) -> None:
    Path("used").mkdir()
    Path("used/notes.txt").write_text("mine", encoding="utf-8")
    shutil.copytree("run-1", "ours")
    refused(*MERGE, *(word.replace("DATA", str(repairsets)) for word in words), says=(says,))


@pytest.mark.parametrize("name", ["allow-custom-code", "allow_custom_code", "address", "run-dir", "val-data", "help"])
def test_options_that_no_part_leaves(name: str, here: Path, refused: Refused) -> None:
    """Whom to trust and where to compute is not for a file to say, however it spells that."""
    change("run-1", options={**read_facts(Path("run-1"))["options"], name: True})
    says = f"run-1/run.json: is damaged (option '{name}'), expected options of batch"
    refused("merge-runs", "run-2", "run-1", "--output-dir", "merged", *HERE, says=(says,))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--part", "0/4"], "part is '0/4', expected I/N with I from 1 to N, as 2/3 for the second of three"),
        (["--part", "1/2", "--mode", "chain"], "--part divides the chunks of mode independent and the mode is chain"),
        (["--part", "1/2", "--mode", "rounds"], "and the mode is rounds, whose chunks wait for one another, expected"),
        (["--part", "1/2", "--dry-run"], "--dry-run tells of the whole run, expected it without --part"),
    ],
)
def test_nothing_to_divide(words: list[str], says: str, repairsets: Path, tmp_path: Path, refused: Refused) -> None:
    refused(*independent(repairsets, tmp_path / "run"), *words, says=(says,))


def test_separate_runs_are_not_divided(batchspace: Path, refused: Refused) -> None:
    words = [*BATCH, "--part", "1/2", "--separate", "--output-dir", "run"]
    refused(*words, says=("--separate makes a run of each label, expected one of --part and --separate",))


CROSSFIT = [*FILES, "--recipes", "2:1:epochs=2,4:1:epochs=2,1:1:epochs=1", "--folds", "3", "--num-particles", "8"]
CROSSFIT += ["--num-iterations", "5", "--target-layer", "dense_1", "--labels", "6", "--seeds", "2", *HERE]
CROSSFIT += ["--requirements", "requirements.toml"]


def in_parts(command: Command, words: list[str], count: int, name: str = "") -> tuple[list[Done], Done]:
    """How the parts of a run and their merge ended, which leaves what the run in one command leaves."""
    whole = command(*words, "--output-dir", f"{name}whole")
    runs = [f"{name}run-{number}" for number in range(1, count + 1)]
    ran = [
        command(*words, "--part", f"{number}/{count}", "--output-dir", run) for number, run in enumerate(runs, start=1)
    ]
    done = command("merge-runs", *reversed(runs), "--output-dir", f"{name}merged", *HERE)
    assert done.code == whole.code, done.err
    assert differences(Path(f"{name}whole"), Path(f"{name}merged")) == []
    return ran, done


def tunings(directory: Path) -> set[tuple[str, int]]:
    """Recipe and fold of the tunings in a run."""
    return {(row["recipe"], row["fold"]) for row in read_table(directory, "tunings").to_pylist()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "count"),
    [
        ([*BATCH, "--labels", "6", "--requirements", "requirements.toml"], 2),
        ([*CROSSFIT, "--val-data", "val.h5", "--test-data", "test.h5"], 9),
    ],
)
def test_tunings_in_two_parts(words: list[str], count: int, batchspace: Path, command: Command) -> None:
    """Each tunes what the other does not; the search and all that follows is of `merge-runs`."""
    require(EASY)
    ran, done = in_parts(command, words, 2)
    for number, part in enumerate(ran, start=1):
        assert part.code == 0, part.err
        assert f"This is part {number}/2 of a run" in part.out
        assert re.search(rf"^CrossFit of 6 Shirt: .*; [1-8] of {count} tunings are done$", part.out, re.MULTILINE)
    mine, others = (tunings(Path(f"run-{number}")) for number in (1, 2))
    assert mine and others and not mine & others and len(mine | others) == count
    assert done.code in (0, 3)
    assert {row["where"] for row in read_table(Path("merged"), "tunings").to_pylist()} == {"checkpoint"}
    assert len(read_patch(Path("merged/patch.arrow")))


@pytest.mark.slow
def test_parts_of_optimize(
    workspace: Path, command: Command, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CrossFit's; where `optimize` has two folders, the merged run has one. It is made from another folder."""
    Path("outputs").mkdir()  # where models are by default
    shutil.copy("model.keras", "outputs")
    words = ["optimize", "--method", "CrossFit", "--target-data-dir", "data/negative/6"]
    words += ["--recipes", "2:1:epochs=2", "--folds", "3", "--num-particles", "8", "--num-iterations", "5", *HERE]
    whole = command(*words, "--output-dir", "whole", "--run-dir", "whole")
    for number in (1, 2):
        run_dir = f"run-{number}"
        done = command(*words, "--output-dir", "out", "--run-dir", run_dir, "--part", f"{number}/2", "--verbose", "1")
        assert done.code == 0, done.err
        assert f"This is part {number}/2 of a run" in done.out and f"records: {run_dir}\n" in done.out
    assert not Path("out").exists()
    assert {len(tunings(Path(f"run-{number}"))) for number in (1, 2)} == {1, 2}
    before = contents(Path("run-1"))
    assert command(*words, "--output-dir", "out", "--run-dir", "run-1", "--part", "1/2", "--resume").code == 0
    assert contents(Path("run-1")) == before
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    merge = ["merge-runs", "../run-1", "../run-2", "--output-dir", "../merged", *HERE]
    says = "--chunks is of batch and the parts are of optimize, expected one without the other"
    refused(*merge, "--chunks", "x", says=(says,))
    done = command(*merge)
    assert done.code == whole.code, done.err
    assert differences(workspace / "whole", workspace / "merged") == []


def test_searches_of_optimize_are_not_divided(workspace: Path, refused: Refused) -> None:
    words = ["optimize", "--method", "Arachne", "--model-dir", "model.keras", "--target-data-dir", "data/negative/6"]
    refused(*words, "--part", "1/2", says=("--part is of CrossFit and the method is Arachne, expected one without",))


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["not HDF5", "not a number", "missing"])
def test_a_chunk_that_cannot_be_read(damage: str, batchspace: Path, command: Command) -> None:
    """Of either method; it comes through to the merged run as in one command."""
    require(EASY)
    harm, found = DAMAGES[damage]
    harm(batchspace / "chunks" / "2" / "repair.h5")
    arachne = [word for word in independent(batchspace, "run") if word not in ("--output-dir", "run")]
    for method, words in (("arachne", arachne), ("crossfit", CROSSFIT)):
        ran, done = in_parts(command, words, 3, f"{method}-")
        assert sorted(part.code for part in ran) == ([0, 0, 4] if method == "arachne" else [4, 4, 4])
        assert done.code == 4 and found in done.out, done.err


@pytest.mark.slow
def test_more_parts_than_chunks_on_workers(
    repairsets: Path, undisturbed: Path, tmp_path: Path, command: Command
) -> None:
    """A part with nothing to do is a part all the same."""
    runs = [tmp_path / f"run-{number}" for number in range(1, CHUNKS + 2)]
    for number, directory in enumerate(runs, start=1):
        more = ["--num-workers", "1"] if number == 2 else []
        done = command(*independent(repairsets, directory, "--part", f"{number}/{len(runs)}", *more))
        assert done.code == 0, done.err
    assert sorted(len(searched(directory)) for directory in runs) == [0, *[1] * CHUNKS]
    done = command("merge-runs", *runs, "--output-dir", tmp_path / "merged", "--num-workers", "1")
    assert done.code == 0, done.err
    assert differences(undisturbed, tmp_path / "merged") == []


@pytest.mark.slow
def test_parts_and_data_that_were_moved(
    parts: Path, repairsets: Path, undisturbed: Path, tmp_path: Path, command: Command
) -> None:
    """As they are where the parts were made on other machines."""
    shutil.copytree(parts, tmp_path / "copied")
    shutil.copytree(repairsets, tmp_path / "data")
    runs = [tmp_path / "copied" / f"run-{number}" for number in (1, 2)]
    for directory in runs:
        options = read_facts(directory)["options"]
        gone = {name: value.replace(str(repairsets), "/gone") for name, value in options.items() if name in PLACES}
        assert set(gone) == PLACES
        change(str(directory), options={**options, **gone})
    words = ["merge-runs", *runs, "--output-dir", tmp_path / "merged", *HERE]
    done = command(*words)
    assert done.code == 2 and "/gone" in done.err and not (tmp_path / "merged").exists()
    data = tmp_path / "data"
    words += ["--model-dir", data / "model.keras", "--chunks", data / "chunks"]
    done = command(*words, "--val-data", data / "val.h5", "--test-data", data / "test.h5")
    assert done.code == 0, done.err
    assert differences(undisturbed, tmp_path / "merged") == []


PLACES = {"chunks", "val_data", "test_data"}


@pytest.mark.slow
def test_a_part_that_failed_and_was_killed_at_its_end(
    here: Path, repairsets: Path, undisturbed: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tables were whole; what it finds at the second try is in them all the same."""
    shutil.rmtree("run-2")
    words = independent(repairsets, "run-2", "--part", "2/2")
    with monkeypatch.context() as patched:
        interrupt(patched, "cluster.workers.task._groups", at=1, error=InputError("memory is short, expected more"))
        interrupt(patched, "cluster.runs.parts.fingerprints", at=1)
        assert command(*words).code == 130
    assert Path("run-2/jobs.arrow").is_file()
    assert "failed" in read_table(Path("run-2"), "jobs")["state"].to_pylist()
    assert command(*words, "--resume").code == 0
    assert set(read_table(Path("run-2"), "jobs")["state"].to_pylist()) <= {"done", "skipped"}
    assert command(*MERGE).code == 0
    assert differences(undisturbed, Path("merged")) == []
    assert ended(Path("merged")) == ended(Path("run-1"), Path("run-2"))


@pytest.mark.slow
@pytest.mark.parametrize("where", ["cluster.records.store.RunRecords.write", "cluster.batch.modes._follow"])
def test_an_interrupted_merge_goes_on(
    where: str, here: Path, undisturbed: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        interrupt(patched, where, at=3 if where.endswith("write") else 1)
        assert command(*MERGE).code == 130
    assert read_facts(Path("merged"))["state"] == "interrupted"
    again = command(*MERGE)
    assert again.code == 2 and "merged: a run is there already" in again.err
    assert command(*MERGE, "--resume").code == 0
    assert differences(undisturbed, Path("merged")) == []
    assert ended(Path("merged")) == ended(Path("run-1"), Path("run-2"))
    before = contents(here)
    assert command(*MERGE, "--resume").code == 0
    assert contents(here) == before


def test_parts_of_nothing_to_repair(batchspace: Path, command: Command, right: Any) -> None:
    images, labels = pooled(Path())
    write(Path("right/0/repair.h5"), images[right], labels[right])
    require(HARD)
    ran, done = in_parts(command, [*CROSSFIT, "--chunks", "right"], 2)
    assert [part.code for part in ran] == [0, 0] and done.code == 3
    assert not tunings(Path("run-1")) and not tunings(Path("run-2"))


def interrupt(patched: pytest.MonkeyPatch, where: str, at: int, error: BaseException | None = None) -> None:
    """As Ctrl-C does, or an error, in the call of this number."""
    work, calls = pkgutil.resolve_name(where), itertools.count(1)

    def call(*arguments: Any, **more: Any) -> Any:
        if next(calls) == at:
            raise error or KeyboardInterrupt
        return work(*arguments, **more)

    patched.setattr(where, call)
