"""Parts of a run, each computed on its own, and joined: what each has found goes into the directory of the whole run,
which then goes on as resumed. So the same code decides, from the same numbers, as if one command had done it all.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cluster.records.schema import SCHEMAS
from cluster.records.store import CHECKPOINTS, RunRecords, first_difference, read_facts, read_table
from cluster.records.versions import DECIDING, versions
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
    """A part of a command with these options as `--part` names it: `2/3`."""
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise InputError(f"part is '{in_words(text)}', expected I/N with I from 1 to N, as 2/3 for the second of three")
    return Part(int(found[1]), int(found[2]), command, options)


def end_part(records: RunRecords, facts: Mapping[str, Any]) -> None:
    """Mark a part as ended: `run.json` has the SHA-256 of each of its files, which may travel before they are joined.

    What it was to find for others stays: searches in the tables, tunings as checkpoints.
    """
    records.join_tables()
    digests = fingerprints(dict(_files(records.directory)))
    records.write_facts({**facts, "state": PART, "files": digests})


COMMANDS = ("batch", "optimize")
"""Those that run parts."""

_UNFINISHED = {"running": "is still running, or was killed", "interrupted": "was interrupted", "failed": "failed"}


@dataclass(frozen=True, eq=False)
class Parts:
    """All parts of one run.

    Attributes:
        directories: of the parts 1, 2, …
        identity: of the whole run.
        command: that ran part 1: batch or optimize.
        options: of that, as `run.json` has them.
    """

    directories: tuple[Path, ...]
    identity: Mapping[str, Any]
    command: str
    options: Mapping[str, Any]

    def facts(self, whole: Mapping[str, Any]) -> dict[str, Any]:
        """What `run.json` says of the merged run, from what it would say of the whole run.

        Raises:
            InputError: the whole run is another one: data, a model, the hardware or a setting have changed.
        """
        _check_same(self.directories[0], dict(self.identity), whole["identity"])
        return {**whole, "parts": [str(directory.absolute()) for directory in self.directories]}

    def join(self, records: RunRecords) -> None:
        """Write what all parts have found into the records of the whole run; what failed is tried again there.

        Raises:
            WorkError: the disk is full, or the lock of the directory is lost.
        """
        for number, directory in enumerate(self.directories, start=1):
            jobs = read_table(directory, "jobs")
            ended = jobs.filter(pc.is_in(jobs["state"], pa.array(["done", "skipped"])))
            if len(ended):
                # The table `jobs` comes last: a job that is in it as done has everything else in its place.
                for name in ("swarm", "patches"):
                    rows = read_table(directory, name)
                    mine = rows.filter(pc.is_in(rows["job"], ended["job"].combine_chunks()))
                    if len(mine):
                        records.write(name, f"part{number}", mine.cast(SCHEMAS[name]))
                records.write("jobs", f"part{number}", ended.cast(SCHEMAS["jobs"]))
            for path in sorted((directory / CHECKPOINTS).glob("[!.]*.npz")):
                records.write_checkpoint(path.stem, path.read_bytes())


def read_parts(directories: Sequence[Path]) -> Parts:
    """The parts in these directories, checked: all of one run, each once, all ended and whole.

    Raises:
        InputError: they are not.
    """
    found = {directory: read_facts(directory) for directory in directories}
    parts = {directory: _part(directory, facts) for directory, facts in found.items()}
    first, *others = directories
    whole = _whole(first, found[first])
    for other in others:
        if difference := first_difference(whole, _whole(other, found[other])):
            raise InputError(
                f"{first} was begun with {difference.name} {difference.before} and {other} with {difference.now}, "
                "expected parts of one run"
            )
        if parts[other].of != parts[first].of:
            raise InputError(
                f"{first} is one of {parts[first].of} parts and {other} one of {parts[other].of}, expected parts of "
                "one run"
            )
    _check_same(first, {"versions": whole.get("versions")}, {"versions": versions(DECIDING)})
    _check_all(directories, parts)
    for directory, facts in found.items():
        _check_ended(directory, parts[directory], facts)
    ordered = tuple(sorted(parts, key=lambda directory: parts[directory].number))
    return Parts(ordered, whole, parts[ordered[0]].command, parts[ordered[0]].options)


def _check_same(directory: Path, before: Any, now: Any) -> None:
    if found := first_difference(before, now):
        raise InputError(
            f"{directory} was begun with {found.name} {found.before} and this command has {found.now}, expected the "
            "same to merge"
        )


def _part(directory: Path, facts: Mapping[str, Any]) -> Part:
    stated, options = facts.get("part"), facts.get("options")
    if not isinstance(stated, dict) or not isinstance(options, dict):
        raise InputError(f"{directory}: is no part of a run, expected one that was made with --part")
    number, of, command = (stated.get(name) for name in ("number", "of", "command"))
    if not (isinstance(number, int) and isinstance(of, int) and 1 <= number <= of and command in COMMANDS):
        raise InputError(f"{directory / 'run.json'}: is damaged, expected the number of a part")
    return Part(number, of, command, options)


def _whole(directory: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    identity = facts.get("identity")
    if not isinstance(identity, dict):
        raise InputError(f"{directory}: found a part without an identity, expected one of this version")
    return {name: value for name, value in identity.items() if name != "part"}


def _check_all(directories: Sequence[Path], parts: Mapping[Path, Part]) -> None:
    by_number: dict[int, Path] = {}
    for directory in directories:
        part = parts[directory]
        if part.number in by_number:
            raise InputError(f"{by_number[part.number]} and {directory} are both part {part}, expected each part once")
        by_number[part.number] = directory
    of = parts[directories[0]].of
    for number in range(1, of + 1):
        if number not in by_number:
            raise InputError(f"part {number}/{of} is missing, expected all {of} parts")


def _check_ended(directory: Path, part: Part, facts: Mapping[str, Any]) -> None:
    """Refuse a part that has not ended, or is not as it ended."""
    state = facts.get("state")
    if state != PART:
        raise InputError(
            f"{directory}: part {part} {_UNFINISHED.get(str(state), 'has not ended')}, expected it to have ended (run "
            "it again with --resume)"
        )
    files = facts.get("files")
    stated = {str(name): str(digest) for name, digest in files.items()} if isinstance(files, dict) else {}
    there = dict(_files(directory))
    for name in sorted({*stated, *there}):
        if name not in there:
            raise InputError(f"{directory / name}: no such file, expected all that part {part} left")
    now = fingerprints(there)
    for name, digest in now.items():
        if stated.get(name) != digest:
            raise InputError(f"{directory / name}: is not as part {part} left it, expected the same bytes")


def _files(directory: Path) -> Iterator[tuple[str, Path]]:
    tables = (directory / f"{name}.arrow" for name in SCHEMAS)
    for path in (*filter(Path.is_file, tables), *(directory / CHECKPOINTS).glob("[!.]*.npz")):
        yield path.relative_to(directory).as_posix(), path
