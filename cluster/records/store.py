"""The records of a run: `run.json` and Arrow tables that can be read at any moment.

While a run goes on, a table is a folder of Arrow IPC files, its parts, each written beside its place and renamed: one
for what ended within half a second, and one for each task that comes back more than once. At its end the folder becomes
one `<table>.arrow`, sorted by key.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from cluster.records.schema import EVALUATION, KEYS, OF_METHODS, SCHEMAS, VOLATILE
from engine.core.errors import InputError, WorkError, is_interruption
from engine.core.files import disk_is_full, is_leftover, remove, remove_at_once, remove_leftovers, replace_file
from engine.core.lock import LOCK, Lock

T = TypeVar("T")

CHECKPOINTS = "checkpoint"

FORMAT = 2
"""Of run directories as this version writes them, in `run.json`; 1 is that of 0.6.0 and earlier, which state none."""

# The run directory of `evaluate`, in its output folder: at its end, and while it goes on or where it was interrupted.
EVALUATE_RUN, EVALUATE_UNFINISHED = "evaluate-run", ".evaluate.unfinished"

_EMPTIED = json.dumps({"state": "emptied"})
_OVER = ("done", "skipped")  # states of jobs that are not tried again
_LONGEST = 150  # characters of a name: file systems take 255 with what is added


class RunRecords:
    """Writes one run directory; with its lock (`engine.core.lock`), only as long as that is held."""

    def __init__(self, directory: Path, lock: Lock | None = None) -> None:
        self.directory = directory
        self._lock = lock

    @staticmethod
    def create(directory: Path, facts: Mapping[str, Any], *, overwrite: bool, lock: Lock | None = None) -> RunRecords:
        """Start a run directory with its `run.json`.

        Raises:
            InputError: something is there already and `overwrite` is not given, or it is no run directory.
        """
        records = RunRecords(directory, lock)
        records.check_ours()
        RunRecords.check_new(directory, overwrite=overwrite)
        if holds_run(directory):
            # Killed among the removals, it is a run of which nothing has been done yet.
            records._write_text("run.json", _EMPTIED)
        remove_leftovers(directory)
        for name in (*(f"{name}.arrow" for name in SCHEMAS), *SCHEMAS, CHECKPOINTS, "progress.json"):
            remove(directory / name)
        records.write_facts({**facts, "state": "running"})
        return records

    @staticmethod
    def start(
        directory: Path, facts: Mapping[str, Any], *, resume: bool, overwrite: bool, lock: Lock | None = None
    ) -> RunRecords:
        """`resume` the run in a directory where that is asked for and there is one; else `create` it."""
        if resume and holds_run(directory):
            return RunRecords.resume(directory, facts, lock=lock)
        return RunRecords.create(directory, facts, overwrite=overwrite, lock=lock)

    @staticmethod
    def check_new(directory: Path, *, overwrite: bool) -> None:
        """Refuse a directory that is in use; one with nothing but its lock, or what a killed command began, is empty.

        Raises:
            InputError: as `create` does.
        """
        if not directory.exists():
            return
        if directory.is_dir() and all(path.name.startswith(LOCK) or is_leftover(path) for path in directory.iterdir()):
            return
        if _emptied(directory):
            return
        ours = holds_run(directory)
        if not (overwrite and ours):
            found = "a run" if ours else "something that is not a run"
            hint = "expected a new name or --overwrite" if ours else "expected a new name"
            raise InputError(f"{directory}: {found} is there already, {hint}")

    @staticmethod
    def check_same(directory: Path, facts: Mapping[str, Any]) -> None:
        """Refuse to go on with another run than the one in a directory.

        Raises:
            InputError: names the first difference in `identity`, or the run there has none.
        """
        before = read_facts(directory).get("identity")
        if not isinstance(before, dict):
            raise InputError(
                f"{directory}: found a run without an identity, expected one of this version, or --overwrite"
            )
        if found := first_difference(before, facts["identity"]):
            raise InputError(
                f"{directory} was begun with {found.name} {found.before} and this command has {found.now}, expected "
                "the same to resume"
            )

    @staticmethod
    def resume(directory: Path, facts: Mapping[str, Any], *, lock: Lock | None = None) -> RunRecords:
        """Go on in a run directory: parts of jobs that had not ended are dropped, they will be written again.

        So is the table `labels`, all of which a run makes again from what had ended.

        Raises:
            InputError: what the run was begun with, under `identity` of its facts, is not what it is now.
        """
        RunRecords.check_same(directory, facts)
        before = read_facts(directory)
        records = RunRecords(directory, lock)
        records.check_ours()
        remove_leftovers(directory)
        records._divide_tables()
        kept = _kept_parts(directory)
        for name in ("swarm", "patches", "labels", "jobs"):
            for path in _parts(directory, name):
                if path.name not in kept or name == "labels":
                    path.unlink()
        records.write_facts({**facts, "started": before.get("started", facts.get("started")), "state": "running"})
        return records

    def check_ours(self) -> None:
        """Raise WorkError where the lock is not held any more; also before what is written beside the records."""
        if self._lock is not None:
            self._lock.check()

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """Replace `run.json`."""
        self._write_text("run.json", json.dumps({**facts, "format": FORMAT}, indent=2, sort_keys=True) + "\n")

    @contextmanager
    def telling_end(self, facts: Mapping[str, Any]) -> Iterator[None]:
        """Say in `run.json` that the run was interrupted, or failed, where the body does, if that can be written."""
        try:
            yield
        except BaseException as error:
            with suppress(Exception):
                state = "interrupted" if is_interruption(error) else "failed"
                self.write_facts({**facts, "state": state})
            raise

    def write_progress(self, progress: Mapping[str, Any]) -> None:
        """Replace `progress.json`, which tells another terminal how far the run is."""
        self._write_text("progress.json", json.dumps(progress) + "\n")

    def replace(self, table: str, part: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the rows of a part, usually those of one task, in place of those before."""
        schema = SCHEMAS[table]
        columns = {name: [row[name] for row in rows] for name in schema.names}
        self.write(table, part, pa.table(columns, schema=schema))

    def write(self, table: str, part: str, rows: pa.Table) -> None:
        """Write ready-made rows of a part, in place of those before."""
        with self._whole(_place(self.directory, table, part)) as temporary:
            _write_table(temporary, rows)

    def write_checkpoint(self, task: str, content: bytes) -> None:
        """Keep the state of a task that has not ended."""
        with self._whole(self.checkpoint(task)) as temporary:
            temporary.write_bytes(content)

    def checkpoint(self, task: str) -> Path:
        """Where the state of a task is kept."""
        return self.directory / CHECKPOINTS / f"{_file_name(task)}.npz"

    def drop_checkpoint(self, task: str) -> None:
        """Delete the checkpoint of a task, if there is one."""
        self.check_ours()
        remove(self.checkpoint(task))

    def checkpoints(self) -> list[Path]:
        """Files of all checkpoints, by name."""
        return sorted((self.directory / CHECKPOINTS).glob("[!.]*.npz"))

    def parts(self, table: str) -> list[str]:
        """Names of the parts of a table, while it is in parts."""
        return [path.stem[: -len("-00000")] for path in _parts(self.directory, table)]

    def compact(self, facts: Mapping[str, Any]) -> None:
        """Turn every folder into one table and mark the run as done."""
        self.join_tables()
        remove_at_once(self.directory / CHECKPOINTS)
        self.write_facts({**facts, "state": "done"})

    def join_tables(self) -> None:
        """Turn every folder into one table; checkpoints and `run.json` stay as they are."""
        for name in SCHEMAS:
            table = read_table(self.directory, name)
            if name in OF_METHODS and not len(table):
                continue
            with self._whole(self.directory / f"{name}.arrow") as temporary:
                _write_table(temporary, table)
        self.check_ours()
        for name in (*SCHEMAS, "progress.json"):
            remove_at_once(self.directory / name)

    def _divide_tables(self) -> None:
        """Undo `join_tables` where jobs are tried again: what they write now would stay behind the whole tables."""
        tables = {name: self.directory / f"{name}.arrow" for name in SCHEMAS}
        if tables["jobs"].is_file():
            jobs = read_table(self.directory, "jobs")
            over = pc.is_in(jobs["state"], pa.array(_OVER))
            if pc.all(over).as_py() is not False:
                return
            again = pc.min(jobs.filter(pc.invert(over))["step"])
            ended = jobs.filter(over)
            kept = ended.filter(pc.less_equal(ended["step"], again))
            if len(kept) < len(ended):
                remove(self.directory / CHECKPOINTS)
            for name in ("swarm", "patches", "jobs"):
                self._keep_jobs(name, kept)
        # Where `jobs` is not whole, the command was killed while it wrote whole tables: all parts are still there.
        # `jobs` goes last: as long as it is whole, a command that is killed here is made up for by the next one.
        for name in (*(each for each in SCHEMAS if each != "jobs"), "jobs"):
            remove(tables[name])

    def _keep_jobs(self, name: str, kept: pa.Table) -> None:
        """Make the rows of these jobs the only parts of a table, one for each step; a whole table stays beside them."""
        rows = read_table(self.directory, name)
        places = set()
        for step in kept["step"].unique().to_pylist():
            mine = kept.filter(pc.equal(kept["step"], step))["job"].combine_chunks()
            part = f"joined-{step:06d}"
            self.write(name, part, rows.filter(pc.is_in(rows["job"], mine)))
            places.add(_place(self.directory, name, part))
        for path in _parts(self.directory, name):
            if path not in places:
                path.unlink()

    def _write_text(self, name: str, text: str) -> None:
        with self._whole(self.directory / name) as temporary:
            temporary.write_text(text, encoding="utf-8")

    @contextmanager
    def _whole(self, path: Path) -> Iterator[Path]:
        """As `replace_file`; what is unfinished has another suffix, so no reader of a table's folder takes it up."""
        self.check_ours()
        with enough_room(self.directory), replace_file(path, keep_suffix=False) as temporary:
            yield temporary


@contextmanager
def enough_room(directory: Path) -> Iterator[None]:
    """Say plainly when the disk of a run is full, wherever in the libraries that shows."""
    try:
        yield
    except Exception as error:
        if not disk_is_full(error):
            raise
        raise WorkError(
            f"{directory}: no space is left on the disk; what was written before is whole; free some space and run "
            "it again, with --resume to go on"
        ) from error


def read_there(directory: Path, read: Callable[[Path], T]) -> T:
    """What a function reads where the records of a run are; again if they were put in their place meanwhile.

    While an evaluation goes on, or where it was interrupted, they are in `EVALUATE_UNFINISHED`.
    """
    unfinished = directory.with_name(EVALUATE_UNFINISHED)
    if directory.name == EVALUATE_RUN and holds_run(unfinished):
        try:
            return read(unfinished)
        except (OSError, InputError):
            if holds_run(unfinished):
                raise
    return read(directory)


def holds_run(directory: Path) -> bool:
    return (directory / "run.json").is_file() and not _emptied(directory)


def _emptied(directory: Path) -> bool:
    """Whether a run that was to take the place of another was killed before it began."""
    path = directory / "run.json"
    return path.is_file() and path.read_text(encoding="utf-8", errors="replace") == _EMPTIED


def read_facts(directory: Path) -> dict[str, Any]:
    """The content of `run.json`.

    Raises:
        InputError: the directory holds no run, or one of a later format, or its `run.json` is damaged.
    """
    _check_run(directory)
    try:
        facts = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{directory / 'run.json'}: is damaged ({error}), expected the facts of a run") from error
    if not isinstance(facts, dict):
        raise InputError(f"{directory / 'run.json'}: holds no table of facts, expected the facts of a run")
    found = facts.get("format", 1)
    if not isinstance(found, int):
        raise InputError(f"{directory / 'run.json'}: is damaged (format {_short(found)}), expected a number")
    if found > FORMAT:
        raise InputError(
            f"{directory}: found a run of format {found}, which a newer version of repair-dist wrote, expected at most "
            f"{FORMAT}"
        )
    return facts


def _check_run(directory: Path) -> None:
    if not holds_run(directory):
        raise InputError(f"{directory}: found no run.json, expected the directory of a run")


class Difference(NamedTuple):
    name: str
    before: str
    now: str


def first_difference(before: Any, now: Any, name: str = "") -> Difference | None:
    """The first value in which two identities differ; None where they are the same."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*now, *(key for key in before if key not in now)]
        each = (first_difference(before.get(key), now.get(key), f"{name} {key}".strip()) for key in keys)
        return next(filter(None, each), None)
    if json.dumps(before, sort_keys=True) == json.dumps(now, sort_keys=True):
        return None
    return Difference(name, _short(before), _short(now))


def read_table(directory: Path, name: str) -> pa.Table:
    """A table of a run, finished or not, sorted by its key; empty before its first part.

    Raises:
        InputError: the directory holds no run.
    """
    _check_run(directory)
    whole = directory / f"{name}.arrow"
    while not whole.is_file():
        try:
            parts = [_read(path) for path in _parts(directory, name)]
        except FileNotFoundError:
            continue  # the run is being compacted: the whole table is there by now
        if whole.is_file():
            break  # compacted meanwhile: some parts may have gone before they were listed
        if not parts:
            return SCHEMAS[name].empty_table()
        return pa.concat_tables(parts).sort_by([(key, "ascending") for key in KEYS[name]])
    return _read(whole)


def read_part(directory: Path, table: str, part: str) -> pa.Table:
    """The rows of a part; none when the table is no longer in parts."""
    path = _place(directory, table, part)
    return _read(path) if path.is_file() else SCHEMAS[table].empty_table()


def comparable(table: pa.Table) -> pa.Table:
    """The columns in which equal runs are equal."""
    return table.select([name for name in table.column_names if name not in VOLATILE])


def write_evaluation(
    path: Path, rows: Sequence[Mapping[str, Any]], identity: str, schema: pa.Schema = EVALUATION
) -> None:
    """Write the table of `evaluate`, with what it is of; columns that a row leaves out are null."""
    columns = {name: [row.get(name) for row in rows] for name in schema.names}
    _write_table(path, pa.table(columns, schema=schema.with_metadata({"identity": identity})))


def read_evaluation(path: Path, identity: str) -> list[dict[str, Any]] | None:
    """The rows of a table of `evaluate`, or None where it is of something else, or damaged."""
    try:
        table = _read(path)
    except (OSError, pa.ArrowException):
        return None
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows if (table.schema.metadata or {}).get(b"identity") == identity.encode() else None


def _place(directory: Path, table: str, part: str) -> Path:
    return directory / table / f"{_file_name(part)}-00000.arrow"


def _parts(directory: Path, table: str) -> list[Path]:
    """The files of a table's folder; as a long listing may leave out one that is replaced meanwhile (on tmpfs), it is
    repeated until it brings nothing new.
    """
    found: set[Path] = set()
    while new := set((directory / table).glob("[!.]*.arrow")) - found:
        found |= new
    return sorted(found)


def _kept_parts(directory: Path) -> set[str]:
    """Names of the parts of `jobs` with which a run goes on: those in which every job is over, and that do not begin
    from the result of one that failed, which is tried again.
    """
    kept: dict[str, int] = {}
    again = float("inf")
    for path in _parts(directory, "jobs"):
        jobs = _read(path).select(["step", "state"])
        step = max(jobs["step"].to_pylist())
        if all(state in _OVER for state in jobs["state"].to_pylist()):
            kept[path.name] = step
        else:
            again = min(again, step)
    if any(step > again for step in kept.values()):
        remove(directory / CHECKPOINTS)  # they may be of those steps
    return {name for name, step in kept.items() if step <= again}


def _read(path: Path) -> pa.Table:
    with pa.OSFile(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def _write_table(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _file_name(name: str) -> str:
    """A name that every file system takes, another for each name; of such a name the same."""
    plain = re.sub(r"^\.|[^A-Za-z0-9_.+-]", "_", name)[:_LONGEST]  # a dot in front: files under construction
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
