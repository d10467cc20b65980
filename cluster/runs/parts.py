"""Parts of a run, each computed on its own, for `cluster.runs.merging` to join: who does what, and how a part ends."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.records.schema import SCHEMAS
from cluster.records.store import RunRecords, holds_run, read_facts
from cluster.runs.identity import fingerprints
from engine.core.errors import InputError
from engine.core.names import in_words

PART = "part"
"""State of a part that has ended."""


@dataclass(frozen=True)
class Part:
    """One of the parts of a run.

    Attributes:
        number: from 1.
        of: how many there are.
        command: that runs it: batch or optimize.
        options: of the command, as JSON has them; whoever merges the parts computes with the same.
    """

    number: int
    of: int
    command: str = "batch"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """As `--part` takes it."""
        return f"{self.number}/{self.of}"

    def mine(self, names: Iterable[str]) -> frozenset[str]:
        """Of the names of all pieces of work those of this part.

        In the order of the SHA-256 of their names they are dealt in turn: parts that know the same names agree, and
        have equally many but for one; neighbours, which may be large or small together, are spread.
        """
        order = sorted(set(names), key=lambda name: hashlib.sha256(os.fsencode(name)).digest())
        return frozenset(order[self.number - 1 :: self.of])

    def facts(self, whole: Mapping[str, Any]) -> dict[str, Any]:
        """What `run.json` says of this part, from what it would say of the whole run."""
        identity = {**whole["identity"], "part": str(self)}
        part = {"number": self.number, "of": self.of, "command": self.command}
        return {**whole, "identity": identity, "part": part, "options": self.options}


def read_part(text: str, command: str, options: Mapping[str, Any]) -> Part:
    """A part of a command with these options as `--part` names it: `2/3`.

    Raises:
        InputError: it is not one of so many.
    """
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise InputError(f"part is '{in_words(text)}', expected I/N with I from 1 to N, as 2/3 for the second of three")
    return Part(int(found[1]), int(found[2]), command, options)


def ended_before(directory: Path, facts: Mapping[str, Any], *, resume: bool) -> dict[str, Any] | None:
    """The `run.json` of a run that a command is to resume and that has come to its end; None where there is work.

    Raises:
        InputError: it is not the run that `facts` are of.
    """
    if not (resume and holds_run(directory)):
        return None
    RunRecords.check_same(directory, facts)
    before = read_facts(directory)
    return before if before.get("state") in ("done", PART) else None


def end_part(records: RunRecords, facts: Mapping[str, Any]) -> None:
    """Mark a part as ended: `run.json` has the SHA-256 of each of its files, which may travel before they are joined.

    What it was to find for others stays: searches in the tables, tunings as checkpoints.
    """
    records.join_tables()
    directory = records.directory
    tables = [directory / f"{name}.arrow" for name in SCHEMAS]
    files = [*(path for path in tables if path.is_file()), *records.checkpoints()]
    digests = fingerprints({path.relative_to(directory).as_posix(): path for path in files})
    records.write_facts({**facts, "state": PART, "files": digests})
