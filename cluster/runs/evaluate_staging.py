"""Where an evaluation is made: in a hidden folder of its output, whose pieces move to their places at the end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cluster.records.store import RunRecords, holds_run
from cluster.runs.output import check_output
from engine.core.errors import InputError
from engine.core.files import remove, remove_at_once, remove_leftovers, replace_directory
from engine.core.lock import Lock
from engine.models.load import LoadedModel

RESULT = "result.txt"
TABLE = "evaluate.arrow"
UNFINISHED = ".evaluate.unfinished"
"""In the output folder, while an evaluation goes on or when it was interrupted."""

MEASURED = "measured"
"""In that folder, the rates of models that were measured."""

_WORTH_KEEPING = ("jobs", "outcomes")
"""Tables of what has been computed."""


def check_pieces(output: Path, pieces: Sequence[Path], model: LoadedModel, *, overwrite: bool) -> None:
    """Refuse what is in the way of an output.

    Args:
        output: the folder.
        pieces: that are to come into it.
        model: to repair.
        overwrite: replace folders that are not repaired models.

    Raises:
        InputError: names it.
    """
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


def digest_of(facts: Mapping[str, Any]) -> str:
    """SHA-256 of what an evaluation is of; its table has it."""
    return hashlib.sha256(json.dumps(facts["identity"], sort_keys=True).encode()).hexdigest()


@contextmanager
def staged(
    output: Path,
    pieces: Sequence[Path],
    optional: Collection[str],
    facts: Mapping[str, Any],
    lock: Lock,
    *,
    resume: bool,
) -> Iterator[RunRecords]:
    """Yield the records of a hidden folder of the output; what comes out moves to its places when the body succeeds.

    On any exception, Ctrl-C included, the output is as before, but for the hidden folder if a search had begun.

    Args:
        output: the folder.
        pieces: what comes out, in the order in which it moves.
        optional: names of those that may be missing; what an earlier evaluation had in their places goes.
        facts: for `run.json`.
        lock: of the output.
        resume: go on with what an interrupted command left.
    """
    folder = output / UNFINISHED
    if resume and holds_run(folder):
        records = RunRecords.resume(folder, facts, lock=lock)
    else:
        if folder.exists():
            remove_at_once(folder)
        records = RunRecords.create(folder, facts, overwrite=False, lock=lock)
    try:
        with records.telling_end(facts):
            yield records
            records.check_ours()
            _move(folder, output, pieces, optional)
    except BaseException:
        if not lock.lost and not any((folder / name).exists() for name in _WORTH_KEEPING):
            remove(folder)
        raise
    remove_at_once(folder)


def _move(folder: Path, output: Path, pieces: Sequence[Path], optional: Collection[str]) -> None:
    """Put every piece in its place. Results go first and come last: where there are some, they are of these models."""
    for piece in pieces:
        if piece.name in (RESULT, TABLE):
            remove(output / piece)
    for piece in pieces:
        place = output / piece
        remove_leftovers(place.parent, (place.stem,))  # of a command that was killed while it moved
        if piece.name in optional and not (folder / piece).exists():
            if place.exists():  # an earlier evaluation had these
                remove(place)
                with suppress(OSError):  # more is in it
                    place.parent.rmdir()
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        if (folder / piece).is_dir():
            with replace_directory(place) as new:
                (folder / piece).replace(new)
        else:
            (folder / piece).replace(place)
