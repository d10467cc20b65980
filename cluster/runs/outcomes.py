"""Repairs of a grid as they are run, recorded, each a row of the table `outcomes` once it has ended, and saved."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cluster.compute.compute import Compute
from cluster.compute.works import Works
from cluster.records import values
from cluster.records.fingerprints import fingerprint
from cluster.records.schema import JobRow, OutcomeRow
from cluster.records.store import RunRecords, read_table
from cluster.runs.output import NOT_MET_FILE, save_repaired
from cluster.workers.model import ModelHandle
from cluster.workers.origins import foreign_origins, missing_methods
from engine.core.errors import InputError
from engine.core.files import remove
from engine.core.plans import Ran, Work, carry_out
from engine.core.progress import Tick
from engine.core.types import Float32
from engine.data.image_set import ImageSet
from engine.localize.weights_file import ARROW, CSV
from engine.methods.base import Subject
from engine.methods.outcome import CHOSEN, Cell, MethodOutcome, Reading, cell_work
from engine.metrics.accuracy import compare
from engine.metrics.against import FAILED
from engine.metrics.requirements import check_requirements
from engine.models.known_data import REPAIR_FACTS
from engine.models.load import LoadedModel
from engine.patches.arrow import write_patch
from engine.patches.patch import NO_CHANGE, Patch, tensors_patch

PATCH = "patch.arrow"

OUTPUTS = ("repair", REPAIR_FACTS, PATCH, CSV, ARROW, NOT_MET_FILE)
"""What a run leaves in its directory beside the records, where that is the output too."""


class Stages:
    """Results of stages of a repair, kept until the run ends with fingerprints of the work that they are of."""

    def __init__(self, records: RunRecords) -> None:
        self._records = records
        self._asked: dict[str, str] = {}  # fingerprints of stages that run

    def get(self, key: str, work: Work) -> tuple[bool, Any]:
        """Whether a result was kept, and that result; raises InputError where it is of other work."""
        mine = self._asked[key] = fingerprint(work)
        known, kept = values.unpack(self._records.checkpoint(key))
        if not known:
            return False, None
        if kept["work"] != mine:
            raise InputError(
                f"{self._records.directory}: {key} is another {work.kind} than the one whose result was kept, "
                "expected the same to resume"
            )
        return True, kept["result"]

    def put(self, key: str, value: Any) -> None:
        kept = {"work": self._asked.pop(key), "result": value}
        self._records.write_checkpoint(key, values.pack(key, kept))


class Outcomes:
    """The journal of a grid (`engine.core.plans.Journal`): a row of `outcomes` for each repair that has ended.

    Failed repairs of an earlier command run again, and so do those whose values were to be kept and are not there. Of
    their stages results are kept until the run ends, with a fingerprint of the work that they are of.
    """

    def __init__(
        self, records: RunRecords, subject: Subject, cells: Sequence[Cell], on_repairs: Callable[[int], Tick]
    ) -> None:
        known = read_table(records.directory, "outcomes").select(["method", "draw", "reading", "ended"]).to_pylist()
        self._over = {(row["method"], row["draw"]) for row in known if row["reading"] != FAILED}
        self.earlier: float = max((row["ended"] for row in known), default=0.0)
        """Seconds of the commands before this one."""
        self._records, self._subject = records, subject
        self._cells = {cell.name: cell for cell in cells}
        self._begun, self._done = time.perf_counter(), 0
        self._tick = on_repairs(len(cells))
        self._ended = {cell.name for cell in cells if self._has(cell)}
        self._stages = Stages(records)
        self._tell(len(self._ended))

    def expect(self, works: Sequence[Work]) -> None:
        """What happens inside of repairs is not told of."""

    def get(self, key: str, work: Work) -> tuple[bool, Any]:
        """Whether a repair has ended; what it came to is in the tables."""
        cell = self._cells.get(key)
        if cell is None:  # a stage of one
            return self._stages.get(key, work)
        return key in self._ended, None

    def _has(self, cell: Cell) -> bool:
        over = (cell.method, cell.draw) in self._over
        return over and not (cell.keep and kept_of(self._records, cell, self._subject) is None)

    def put(self, key: str, work: Work, value: Any, ran: Ran) -> None:
        cell = self._cells.get(key)
        if cell is None:
            self._stages.put(key, value)
            return
        if cell.keep and not value.failed:
            new = value.readings[CHOSEN].offer.values
            kept = {"values": {**self._subject.chain.values, **new}}
            self._records.write_checkpoint(cell.name, values.pack(cell.name, kept))
        rows = outcome_rows(self._subject, cell, value, ran, self._elapsed)
        self._records.replace("outcomes", cell.name, rows)
        self._tell(1)

    @property
    def _elapsed(self) -> float:
        return self.earlier + time.perf_counter() - self._begun

    def _tell(self, more: int) -> None:
        self._done += more
        self._tick(more)
        done, jobs, elapsed = self._done, len(self._cells), self._elapsed
        left = elapsed / done * (jobs - done) if done else None
        progress = {"step": 1, "steps": 1, "jobs_done": done, "jobs": jobs, "elapsed": elapsed, "left": left}
        self._records.write_progress(progress)


def run_cells(
    subjects: Sequence[tuple[Subject, Sequence[Cell]]],
    compute: Compute,
    handle: ModelHandle,
    records: RunRecords,
    on_repairs: Callable[[int], Tick],
    *,
    opens: bool = False,
) -> float:
    """Run the repairs of a grid that have not ended, and record each as it ends; seconds of the commands before.

    Repairs come with what those of each list share, which differs in no more than settings; `opens` spreads the work
    inside a repair, else each runs whole in one place.
    """
    first, _ = subjects[0]
    data = first.pool.rows.fingerprint
    cells = [cell for _, mine in subjects for cell in mine]
    journal = Outcomes(records, first, cells, on_repairs)
    names = tuple(dict.fromkeys(cell.method for cell in cells))
    unknown = {name: missing_methods((name,)) for name in names}
    works = []
    for subject, mine in subjects:
        for cell in mine:
            work = cell_work(subject, cell, data)
            if not unknown[cell.method]:
                works.append(work)
            elif not journal.get(cell.name, work)[0]:
                journal.put(cell.name, work, MethodOutcome({}, failed=unknown[cell.method]), Ran("process"))
    origins = foreign_origins([name for name in names if not unknown[name]])
    executor = Works(compute, handle, opens=opens, origins=origins)
    for _ in carry_out(works, executor, journal, window=64 if opens else max(1, len(works))):
        pass
    return journal.earlier


def kept_of(records: RunRecords, cell: Cell, subject: Subject) -> Mapping[str, Float32] | None:
    """Values by path of all weights of the chain, as a repair has chosen; None where none were kept, or are damaged."""
    known, kept = values.unpack(records.checkpoint(cell.name))
    found = kept.get("values") if known and isinstance(kept, dict) else None
    shapes = {path: value.shape for path, value in subject.chain.values.items()}
    if not isinstance(found, dict) or {path: value.shape for path, value in found.items()} != shapes:
        return None
    return found


def changed_of(records: RunRecords, cell: Cell, subject: Subject) -> dict[str, Float32] | None:
    """Weights by path that have other values than in the baseline model; None where the repair failed."""
    kept, known = kept_of(records, cell, subject), subject.chain.values
    if kept is None:
        return None
    return {path: value for path, value in kept.items() if value.tobytes() != known[path].tobytes()}


def ended_repairs(records: RunRecords) -> dict[int, dict[str, Any]]:
    """Rows of the table `outcomes` by draw, of a run of one method: what was chosen, or why it failed."""
    table = read_table(records.directory, "outcomes").to_pylist()
    return {row["draw"]: row for row in table if row["reading"] in (CHOSEN, FAILED)}


def save_values(
    model: LoadedModel,
    known: Mapping[str, Float32],
    new: Mapping[str, Float32],
    output: Path,
    rows: ImageSet,
    *copies: Path,
) -> tuple[Path, Patch]:
    """Save a model whose weights are `known` with `new` values of some, and the patch; returns its path, and the patch.

    `output` gets `repair`, and the patch too, as `copies` do; it was repaired with `rows`.
    """
    patch = tensors_patch({path: known[path] for path in new}, new) if new else NO_CHANGE
    saved = save_repaired(model, patch, output, rows)
    for folder in dict.fromkeys((output, *copies)):
        if len(patch):
            write_patch(folder / PATCH, patch, {path: value.shape for path, value in new.items()})
        else:
            remove(folder / PATCH)
    return saved, patch


def job_row(cell: Cell, told: Mapping[str, Any], chunk: Path, label: int, *, chosen: bool) -> dict[str, Any]:
    """The row of `jobs` of a repair, from its row of `outcomes`; `chunk` is the folder of its rows."""
    return JobRow(
        job=cell.name,
        step=1,
        chunk=str(chunk),
        label=label,
        seed=cell.seed,
        weights=told["weights"] or 0,
        fitness=told["best"],
        start_fitness=told["own"],
        state="failed" if told["reading"] == FAILED else "done",
        note=told["note"] or "",
        chosen=chosen,
        where=told["where"],
        worker=told["worker"],
        ended=told["ended"],
        seconds=told["seconds"],
    ).cells


def outcome_rows(
    subject: Subject, cell: Cell, outcome: MethodOutcome, ran: Ran, elapsed: float
) -> list[dict[str, Any]]:
    """Rows of the table `outcomes`: one for each reading of a repair, or the one that says why it failed."""
    rows = len(subject.pool.labels) if cell.rows is None else cell.rows
    row = functools.partial(
        OutcomeRow,
        method=cell.method,
        draw=cell.draw,
        seed=cell.seed,
        rows=rows,
        own=outcome.own,
        best=outcome.best,
        where=ran.where,
        worker=ran.worker,
        seconds=outcome.seconds,
        cpu=outcome.cpu,
        ended=elapsed,
    )
    if outcome.failed:
        return [row(reading=FAILED, note=outcome.failed).cells]
    note = "; ".join(outcome.notes)
    return [
        row(reading=name, note=note, **_reading_cells(subject, reading)).cells
        for name, reading in outcome.readings.items()
    ]


def _reading_cells(subject: Subject, reading: Reading) -> dict[str, Any]:
    told = {
        "offer": reading.offer.name,
        "weights": reading.changed,
        "chance": reading.chance,
        "promised": reading.promised,
    }
    test = subject.test
    if test is None or reading.test is None:
        return told
    comparison = compare(test.labels, test.before, reading.test, subject.chain.classes)
    net, totals = comparison.fixed - comparison.broken, comparison.totals
    mine = list(subject.repaired)
    judged = int(totals[mine].sum())
    others = [label for label in np.flatnonzero(totals).tolist() if label not in subject.repaired]
    changes = {label: float(net[label] / totals[label]) for label in others}
    worst = min(changes, key=lambda label: changes[label], default=-1)
    verdicts = check_requirements(subject.requirements, comparison)
    return {
        **told,
        "gain": float(net[mine].sum() / judged) if judged else None,
        "all": float(net.sum() / totals.sum()),
        "worst": changes.get(worst),
        "worst_label": worst,
        "fixed": int(comparison.fixed.sum()),
        "broken": int(comparison.broken.sum()),
        "kept": all(verdict.met for verdict in verdicts),
        "after": reading.test.tolist(),
    }
