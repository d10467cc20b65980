"""Where an evaluation is made: in a hidden folder of its output, whose pieces move to their places at the end.

It is the run directory until then, with the pieces in `FILES`; then the records alone are left of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cluster.records.store import EVALUATE_RUN, EVALUATE_UNFINISHED, RunRecords, holds_run, read_facts
from cluster.runs.output import check_output
from engine.core.errors import InputError
from engine.core.files import remove, remove_at_once, remove_leftovers, replace_directory
from engine.core.lock import Lock
from engine.models.load import LoadedModel

RESULT = "result.txt"
TABLE = "evaluate.arrow"
FILES = "files"

_MOVING = "moving"
"""`FILES` while its pieces move: a command that goes on makes them again, as some may be in their places already."""

_WORTH_KEEPING = ("jobs", "jobs.arrow", "outcomes")
"""Tables of what has been computed."""


def check_pieces(output: Path, pieces: Sequence[Path], model: LoadedModel, *, overwrite: bool) -> None:
    """Refuse what is in the way of pieces that are to come into a folder; `overwrite` as of `check_output`."""
    for piece in pieces:
        place = output / piece
        if piece.name == "repair":
            check_output(place.parent, model, overwrite=overwrite)
            continue
        found = next(path for path in (place, *place.parents) if path.exists())
        if found != place and not found.is_dir():
            raise InputError(f"{found} is a file, expected a folder, or none, for {place}")
        if found == place and place.is_dir():
            raise InputError(f"{place} is a folder, expected a file, or none")
    run = output / EVALUATE_RUN
    if run.exists() and not holds_run(run):
        raise InputError(f"{run} holds no run, expected one of an earlier evaluation, or none, for its records")


def digest_of(facts: Mapping[str, Any]) -> str:
    """SHA-256 of what an evaluation is of; its table has it."""
    return hashlib.sha256(json.dumps(facts["identity"], sort_keys=True).encode()).hexdigest()


def settle(output: Path) -> None:
    """Put the records in their place where a command was killed when all else was done."""
    folder = output / EVALUATE_UNFINISHED
    if holds_run(folder) and read_facts(folder).get("state") == "done":
        _settle(folder)


@contextmanager
def staged(output: Path, facts: Mapping[str, Any], lock: Lock, *, resume: bool) -> Iterator[RunRecords]:
    """Yield the records of a hidden folder of the output, which get their own place when the body succeeds.

    On any exception, Ctrl-C included, the output is as before, but for the hidden folder if a search had begun: with
    `resume` an evaluation goes on with that.
    """
    folder = output / EVALUATE_UNFINISHED
    if resume and holds_run(folder):
        records = RunRecords.resume(folder, facts, lock=lock)
        remove(folder / _MOVING)
    else:
        if folder.exists():
            remove_at_once(folder)
        records = RunRecords.create(folder, facts, overwrite=False, lock=lock)
    try:
        with records.telling_end(facts):
            yield records
    except BaseException:
        if not lock.lost and not any((folder / name).exists() for name in _WORTH_KEEPING):
            remove(folder)
        raise
    _settle(folder)


def move(records: RunRecords, output: Path, pieces: Sequence[Path]) -> None:
    """Put every piece in its place, in their order, and delete what an earlier evaluation had there of those missing.

    Results and records go first and come last: where there are some, they are of these models.
    """
    records.check_ours()
    remove_at_once(records.directory / _MOVING)
    made = (records.directory / FILES).rename(records.directory / _MOVING)
    for piece in (*pieces, Path(EVALUATE_RUN)):
        if piece.name in (RESULT, TABLE, EVALUATE_RUN):
            remove(output / piece)
    for piece in pieces:
        place = output / piece
        remove_leftovers(place.parent, (place.stem,))  # of a command that was killed while it moved
        if not (made / piece).exists():
            if place.exists():
                remove(place)
                with suppress(OSError):  # more is in it
                    place.parent.rmdir()
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        if (made / piece).is_dir():
            with replace_directory(place) as new:
                (made / piece).replace(new)
        else:
            (made / piece).replace(place)
    remove(made)


def _settle(folder: Path) -> None:
    place = folder.parent / EVALUATE_RUN
    remove(place)
    folder.rename(place)
