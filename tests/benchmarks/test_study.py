"""The study of methods: the order of its runs, the differences it tells of, and the page made of its numbers."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.records.store import RunRecords, read_facts
from engine.data.writer import write_image_set
from engine.metrics.resampled import paired_difference
from engine.models.checkpoints import checkpoint_files, read_checkpoints, unlike
from engine.models.load import load_model
from tests.support.comparisons import REASON, Effect, write_comparison

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"

EFFECTS = {
    "CrossFit": Effect(0.3, 0.0, promises=1.0),
    "head": Effect(0.9, 0.0, promises=0.2),
    "NeuRecover": Effect(kind="failed"),
}
LABELS, DRAWS = (4, 6), 5


@pytest.fixture
def pieces(module: Any, tmp_path: Path) -> Any:
    """Runs of two labels of the vision transformer, 60 of 300 rows, written in place of repairs."""
    study = module("study")
    subject = replace(next(each for each in study.SUBJECTS if each.name == "transformer"), rows=(60,), labels=LABELS)
    found = study.pieces_of(study.cells_of([subject]), [DRAWS])
    for piece in found:
        folder = tmp_path / "written" / piece.name
        folder.mkdir(parents=True)
        written = write_comparison(folder, EFFECTS, draws=DRAWS, labels=(piece.cell.label,))
        (tmp_path / "runs").mkdir(exist_ok=True)
        written.directory.rename(tmp_path / "runs" / piece.name)
    return found


@pytest.fixture
def results(module: Any, pieces: Any, tmp_path: Path) -> Any:
    facts = {"command": "python benchmarks/methods.py", "seconds": "120", "failed": "", "left out": ""}
    return module("methods_results").gather(pieces, tmp_path / "runs", tmp_path / "docs", "machine: two cores", facts)


def test_a_study_that_is_cut_short_covers_all_cells(module: Any) -> None:
    study = module("study")
    cells = study.cells_of(study.SUBJECTS)
    pieces = study.pieces_of(cells, [5, 5])
    assert len(cells) == len(set(cells)) == 20
    assert [piece.cell for piece in pieces[: len(cells)]] == cells
    assert {piece.cell.subject.name for piece in pieces[:8]} == {each.name for each in study.SUBJECTS}
    for cell in cells:
        mine = [piece for piece in pieces if piece.cell == cell]
        seeds = [seed for piece in mine for seed in range(piece.seed, piece.seed + piece.draws)]
        assert seeds == list(range(cell.subject.draws))
    assert len({piece.name for piece in pieces}) == len(pieces)


def test_a_model_is_trained_once_and_another_network_is_refused(module: Any, tmp_path: Path) -> None:
    networks, rows = module("networks"), tmp_path / "rows.h5"
    images = np.random.default_rng(0).random((40, 8, 8, 1), dtype=np.float32)
    with write_image_set(rows, rows=40, image_shape=(8, 8, 1), classes=10) as writer:
        writer.append(images, np.eye(10, dtype=np.uint8)[np.arange(40) % 10])
    model = networks.trained("digits", rows, tmp_path / "model", epochs=1)
    written = model.stat().st_mtime_ns
    assert networks.trained("digits", rows, tmp_path / "model", epochs=1) == model
    assert model.stat().st_mtime_ns == written
    changed = replace(networks.NETWORKS["digits"], rate=1e-2)
    networks.NETWORKS = {**networks.NETWORKS, "digits": changed}
    with pytest.raises(Exception, match="has another network than digits is now, expected another --work-dir"):
        networks.trained("digits", rows, tmp_path / "model", epochs=1)


@pytest.mark.slow
def test_checkpoints_of_the_quickstart_are_of_its_model_or_there_are_none(module: Any, tmp_path: Path) -> None:
    dataset = Path("/usr/share/datasets/fashion-mnist")
    if not dataset.is_dir():
        pytest.skip("needs Debian's dataset-fashion-mnist")
    folder = module("networks").quickstart_checkpoints(tmp_path / "checkpoints", dataset)
    if folder is None:
        assert not (tmp_path / "checkpoints").exists()
        return
    model = load_model(ROOT / "cli" / "quickstart_data" / "model.keras")
    assert len(checkpoint_files(folder)) == 6
    earlier, last = read_checkpoints(folder, model)
    assert unlike(earlier, model) is not None and unlike(last, model) is None


def test_rows_that_judge_are_in_no_other_set(module: Any, tmp_path: Path) -> None:
    from engine.data.image_set import open_image_set, open_reader
    from engine.data.row_digests import row_digests

    study = module("study")
    source = study.Source(tmp_path, module("common").SHIPPED, None, study.TINY_OFFSET, study.TINY_SIZES)
    (subject,) = (each for each in study.SUBJECTS if each.name == "quickstart")
    place = source.place(subject)
    assert place.checkpoints is None
    rows = {}
    for name in SETS:
        images = open_image_set(place.data / f"{name}.h5")
        with open_reader(images) as reader:
            rows[name] = {digest.tobytes() for digest in row_digests(reader.read(0, images.rows))}
    assert {name: len(found) for name, found in rows.items()} == {"train": 200, "repair": 400, "val": 200, "test": 300}
    assert len(set().union(*rows.values())) == 1100
    with pytest.raises(Exception, match="has other rows than asked for, expected another --work-dir"):
        replace(source, offset=0).place(subject)


SETS = ("train", "repair", "val", "test")


def test_differences_are_of_means_over_labels_and_count_shared_rows(module: Any, results: Any, pieces: Any) -> None:
    (row,) = (
        row
        for row in results.differences
        if (row["method"], row["reading"], row["measure"]) == ("head", "chosen", "gain")
    )
    gains = {
        (each["method"], each["label"], each["seed"]): each["gain"]
        for each in results.outcomes
        if each["reading"] == "chosen"
    }
    by_draw = [
        np.mean([gains["head", label, seed] - gains["CrossFit", label, seed] for label in LABELS])
        for seed in range(DRAWS)
    ]
    assert row["mean"] == pytest.approx(np.mean(by_draw)) and row["draws"] == DRAWS
    draws_alone = paired_difference(np.array(by_draw), 60 / 300, None)
    assert row["low"] < draws_alone.low and row["high"] > draws_alone.high  # test rows are a sample too
    assert not any(each["method"] in ("CrossFit", "NeuRecover") for each in results.differences)


def test_a_page_says_who_is_first_who_is_surely_better_and_what_failed(module: Any, results: Any) -> None:
    page = module("methods_page")
    text = page.page(results)
    (group,) = {(row["model"], row["rows"]) for row in results.outcomes}
    crossfit, head = page.summarise(results, group, "chosen")
    assert (crossfit.method, head.method) == ("CrossFit", "head")
    assert (crossfit.repairs, crossfit.promised, crossfit.held) == (
        10,
        10,
        8,
    )  # the fourth draw of each label is not kept
    assert (head.promised, head.held) == (2, 2)
    assert "- **The label at any price**: head (1)." in text
    assert "- **The label, limits kept**: none (1)." in text  # four of five draws keep them
    assert "- **A promise**: head (1)." in text
    verdict = page.against(results, group)["head", "chosen", "gain"]
    assert verdict.verdict == "better" and f"{page.points(verdict.mean)} (" in text
    assert f"- **NeuRecover**, a small vision transformer (10): {REASON}.".replace("_", r"\_") in text
    assert "20 repairs, and 10 that could not run, in 2 minutes" in text
    assert re.search(r"\$\w|nan|None", text) is None


def test_a_study_that_is_cut_says_of_which_cells_it_has_numbers(module: Any, pieces: Any, tmp_path: Path) -> None:
    """Of two labels the run of one has not ended: it is left out, and named where it is missed."""
    cut = tmp_path / "runs" / pieces[1].name
    RunRecords(cut).write_facts(read_facts(cut) | {"state": "running"})
    facts = {"command": "c", "seconds": "120", "failed": "", "left out": "", "rows": "Of somewhere.\nOf elsewhere."}
    results = module("methods_results").gather(
        pieces, tmp_path / "runs", tmp_path / "docs", "machine: two cores", facts
    )
    assert {row["label"] for row in results.outcomes} == {pieces[0].cell.label}
    text = module("methods_page").page(results)
    assert f"{DRAWS} of label {pieces[0].cell.label}, none of label {pieces[1].cell.label}" in text
    assert "Not in these numbers, as they have not come to their end: 1 of 2 runs." in text
    assert f"Label {pieces[0].cell.label}. Draws" in text and f"Draws of a difference: {DRAWS};" in text
    assert "- Of somewhere.\n- Of elsewhere.\n- Methods change" in text
    assert "Not run: the small legacy CNN; the quickstart's model;" in text
    assert "No checkpoints of the training are known of a small vision transformer:" in text


def test_a_model_whose_weights_are_as_they_were_is_left_and_promises_nothing(module: Any, results: Any) -> None:
    page, (group,) = module("methods_page"), {(row["model"], row["rows"]) for row in results.outcomes}
    rows = [{**row, "weights": 0 if row["seed"] < 3 else row["weights"]} for row in results.outcomes]
    crossfit = page.summarise(replace(results, outcomes=rows), group, "chosen")[0]
    assert (crossfit.repairs, crossfit.left, crossfit.promised) == (10, 6, 4)


def test_the_committed_page_is_what_the_committed_numbers_make(module: Any) -> None:
    results = module("methods_results").read(ROOT / "docs")
    committed = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert committed == module("methods_page").page(results), "run: python benchmarks/methods.py --page"
