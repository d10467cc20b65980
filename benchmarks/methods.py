"""Every method of repair beside CrossFit, over models, numbers of repair rows, labels and draws: `docs/methods.md`.

python benchmarks/methods.py [--work-dir FOLDER]    # the study; interrupted, the same command goes on
python benchmarks/methods.py --page                 # the page anew, from the numbers that are there

Every cell is runs of `repair-dist compare`. Draws come in rounds, a few of every cell, so that a study that is cut
short covers all cells.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from common import COMMAND, Aim, dataset_option, machine, output_option, write_aims
from ledger import Ledger
from methods_page import write_page
from methods_results import gather, read
from study import (
    OFFSET,
    SIZES,
    SUBJECTS,
    TINY_EPOCHS,
    TINY_OFFSET,
    TINY_SIZES,
    Piece,
    Place,
    Source,
    Subject,
    cells_of,
    pieces_of,
    tiny,
)
from unseen import words

from engine.core.files import replace_file

ROOT = Path(__file__).resolve().parent.parent

LEGACY = "REPAIR_DIST_LEGACY_MODELS"
"""The environment's name for the folder with the legacy CNN."""

ROUNDS = "5,5"

MINUTES = 90
"""That the whole is to take on two quiet cores."""

LEFT_OUT = "left-out.json"
"""In the folder of a study: models that could not be had, by title, and why."""

ALL = "all"

LOAD = re.compile(r"load ([\d.]+) at start")

ENDED = (0, 4)
"""Exit codes of a `compare` that came to its end; 4 says that rows were left out."""


def _rounds(context: Any, option: Any, text: str) -> tuple[int, ...]:
    del context, option
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        raise click.BadParameter(f"{text!r}, expected numbers above 0 with commas between")
    return tuple(map(int, parts))


def _legacy() -> Path | None:
    folder = os.environ.get(LEGACY)
    return Path(folder) / "fashion-cnn.h5" if folder else None


@click.command()
@click.option(
    "--work-dir",
    type=click.Path(file_okay=False, resolve_path=True, path_type=Path),
    help="Folder for rows, models and runs [default: bench-results/methods, or methods-tiny with --tiny].",
)
@dataset_option
@click.option(
    "--legacy-model",
    type=click.Path(exists=True, resolve_path=True, path_type=Path),
    default=_legacy,
    help=f"The legacy CNN [default: fashion-cnn.h5 of the folder that {LEGACY} names].",
)
@click.option(
    "--models",
    default=",".join(subject.name for subject in SUBJECTS),
    show_default=True,
    callback=words(*(subject.name for subject in SUBJECTS)),
    help="Compared on.",
)
@click.option("--methods", default=ALL, show_default=True, help="As `compare` takes them.")
@click.option("--rounds", default=ROUNDS, show_default=True, callback=_rounds, help="Draws of each round.")
@click.option("--num-workers", type=int, default=2, show_default=True, help="Workers of one thread each.")
@click.option(
    "--tiny", "only_tiny", is_flag=True, help="Few rows, draws and epochs, and one label: whether all of it runs."
)
@click.option("--train", "only_train", is_flag=True, help="Write rows and train models, and compare nothing yet.")
@click.option("--gather", "only_gather", is_flag=True, help="Compare nothing more, and tell of what there is.")
@click.option(
    "--page", "only_page", is_flag=True, help="Make the page from the numbers in --results, and nothing else."
)
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of methods.arrow, methods-differences.arrow and methods.md [default: docs, or, with --tiny, results "
    "in --work-dir].",
)
@output_option
def main(
    work_dir: Path | None,
    dataset_dir: Path,
    legacy_model: Path | None,
    models: tuple[str, ...],
    methods: str,
    rounds: tuple[int, ...],
    num_workers: int,
    only_tiny: bool,
    only_train: bool,
    only_gather: bool,
    only_page: bool,
    results: Path | None,
    output: Path | None,
) -> None:
    """Repair by all methods, judge all alike, and make the page."""
    work_dir = work_dir or ROOT / "bench-results" / ("methods-tiny" if only_tiny else "methods")
    results = results or (work_dir / "results" if only_tiny else ROOT / "docs")
    if only_page:
        click.echo(f"page: {write_page(read(results), results)}")
        return
    line = machine()
    click.echo(line)
    subjects = [subject for subject in SUBJECTS if subject.name in models]
    where = (work_dir, dataset_dir.resolve(), legacy_model)
    source = Source(*where, OFFSET, SIZES)
    if only_tiny:
        subjects, source = tiny(subjects), Source(*where, TINY_OFFSET, TINY_SIZES, TINY_EPOCHS)
    planned = pieces_of(cells_of(subjects), rounds)
    ledger = Ledger(work_dir / "commands.jsonl", ("piece", "methods"), {"methods": ALL})
    runs = _runs(work_dir, methods)
    if not only_gather:
        places, left_out = _places(source, subjects)
        _keep(work_dir / LEFT_OUT, subjects, left_out)
        if not places:
            raise click.ClickException("no model can be had here, expected one at least")
        if only_train:
            return
        wanted = [piece for piece in planned if piece.cell.subject.name in places]
        _run_all(wanted, places, ledger, runs, methods, num_workers)
    left_out = {title: why for title, why in _kept(work_dir / LEFT_OUT).items() if title in _titles(subjects)}
    pieces = [piece for piece in planned if piece.cell.subject.title not in left_out]
    names = {piece.name for piece in pieces}
    lines = [each for each in ledger.lines if each["piece"] in names and each["methods"] == methods]
    if not lines:
        raise click.ClickException(f"{work_dir} has no runs, expected some")
    seconds = sum(each["seconds"] for each in lines)
    begun = {each["piece"] for each in lines}
    kinds = [piece.cell.subject.data for piece in pieces if piece.name in begun]
    facts = {
        "command": _command(models, methods, rounds, num_workers, only_tiny, legacy_model),
        "seconds": f"{seconds:.0f}",
        "failed": ", ".join(each["piece"] for each in lines if each["code"] not in ENDED),
        "left out": "; ".join(f"{title}: {why}" for title, why in left_out.items()),
        "rows": "\n".join(source.told(kind) for kind in dict.fromkeys(kinds)),
    }
    found = gather(pieces, runs, results, _machine([each["machine"] for each in lines]), facts)
    click.echo(f"page: {write_page(found, results)}")
    done = sum(each["code"] in ENDED for each in lines)
    click.echo(f"{done} of {len(pieces)} runs, {seconds / 60:.1f} minutes; rows: {len(found.outcomes)}")
    if done == len(pieces):
        write_aims(output, "methods", [Aim("the whole study, minutes", seconds / 60, MINUTES)], line)


def _machine(lines: Sequence[str]) -> str:
    """What `machine` said last, with the least and the largest load of all runs."""
    loads = sorted(float(found[1]) for line in lines if (found := LOAD.search(line)))
    return LOAD.sub(f"load {loads[0]:g} to {loads[-1]:g} at start", lines[-1]) if loads else lines[-1]


def _titles(subjects: Sequence[Subject]) -> set[str]:
    return {subject.title for subject in subjects}


def _runs(work_dir: Path, methods: str) -> Path:
    """The folder of the runs: one for each choice of methods, as a run goes on with its own alone."""
    if methods == ALL:
        return work_dir / "runs"
    return work_dir / f"runs-{hashlib.sha256(methods.encode()).hexdigest()[:8]}"


def _command(
    models: Sequence[str], methods: str, rounds: Sequence[int], num_workers: int, only_tiny: bool, legacy: Path | None
) -> str:
    """That comes to the same: what is not as usual is told; of the legacy CNN the name of its file alone."""
    parts = ["python benchmarks/methods.py", f"--num-workers {num_workers}"]
    parts += ["--tiny"] * only_tiny
    if len(models) < len(SUBJECTS):
        parts.append(f"--models {','.join(models)}")
    if methods != ALL:
        parts.append(f"--methods {methods}")
    if (told := ",".join(map(str, rounds))) != ROUNDS:
        parts.append(f"--rounds {told}")
    if legacy is not None and "legacy" in models:
        parts.append(f"--legacy-model {legacy.name}")
    return " ".join(parts)


def _kept(path: Path) -> dict[str, str]:
    return dict(json.loads(path.read_bytes())) if path.exists() else {}


def _keep(path: Path, subjects: Sequence[Subject], left_out: dict[str, str]) -> None:
    """Keep which of the subjects were left out, for a later `--gather`; others stay as they were."""
    known = {title: why for title, why in _kept(path).items() if title not in _titles(subjects)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as temporary:
        temporary.write_text(json.dumps(known | left_out) + "\n", encoding="utf-8")


def _places(source: Source, subjects: Sequence[Subject]) -> tuple[dict[str, Place], dict[str, str]]:
    """Where subjects lie by name; and by title why some cannot be had here."""
    found, left_out = {}, {}
    for subject in subjects:
        try:
            found[subject.name] = source.place(subject)
        except click.ClickException as error:  # noqa: PERF203
            left_out[subject.title] = error.message
            click.echo(f"left out: {subject.title}: {error.message}", err=True)
    return found, left_out


def _run_all(
    pieces: Sequence[Piece], places: dict[str, Place], ledger: Ledger, runs: Path, methods: str, num_workers: int
) -> None:
    """Run all pieces that have not ended; one that fails is told of, and the others go on."""
    known = {line["piece"]: line for line in ledger.lines if line["methods"] == methods}
    for number, piece in enumerate(pieces, 1):
        before = known.get(piece.name, {"seconds": 0.0, "code": None})
        if before["code"] in ENDED:
            continue
        begun, code = time.perf_counter(), -1
        line = machine()
        try:
            code = _compare(piece, places[piece.cell.subject.name], runs, methods, num_workers)
        finally:
            seconds = before["seconds"] + time.perf_counter() - begun
            ledger.add(piece=piece.name, methods=methods, seconds=seconds, code=code, machine=line)
        click.echo(f"{number} of {len(pieces)}: {piece.name}: {seconds:.0f} s" + _ending(code), err=True)


def _ending(code: int) -> str:
    return "" if code in ENDED else f", ended with {code}; its log says why"


def _compare(piece: Piece, place: Place, runs: Path, methods: str, num_workers: int) -> int:
    """Run a piece, or go on with it; returns the exit code. What it prints is kept beside its directory."""
    runs.mkdir(parents=True, exist_ok=True)
    command = ["compare", "--model-dir", place.model, "--chunks", place.data, "--labels", piece.cell.label]
    command += ["--val-data", place.data / "val.h5", "--test-data", place.data / "test.h5", "--methods", methods]
    command += ["--draws", piece.draws, "--seed", piece.seed, "--rows", piece.cell.rows]
    command += ["--num-workers", num_workers, "--output-dir", runs / piece.name, "--resume"]
    if place.checkpoints is not None and (methods == "all" or "neurecover" in methods.casefold()):
        command += ["--weights-dir", place.checkpoints]
    with (runs / f"{piece.name}.log").open("a", encoding="utf-8") as log:
        started = [sys.executable, "-c", COMMAND, *map(str, command)]
        return subprocess.run(
            started, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT, check=False
        ).returncode


if __name__ == "__main__":
    main()
