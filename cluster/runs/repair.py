"""A repair by a method of the registry: rows to plans, plans to values, values to a saved model that is measured."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from cluster.compute.compute import Compute
from cluster.compute.works import Works
from cluster.records.rows import patch_places
from cluster.records.store import RunRecords, enough_room
from cluster.runs.ledger import Ledger, OnJobs
from cluster.runs.optimize import OnIterations, search
from cluster.runs.outcomes import (
    OUTPUTS,
    PATCH,
    Stages,
    changed_of,
    ended_repairs,
    job_row,
    run_cells,
    save_values,
)
from cluster.runs.output import NOT_MET_FILE, check_output, mark_missing, measuring, missed, tell_label_file
from cluster.runs.parts import Part, Parts
from cluster.runs.recording import claimed
from cluster.runs.repair_rows import Asked, RepairRows, method_facts, read_rows, subject_of
from cluster.runs.reports import (
    Measured,
    before_and_after,
    frontier_rows,
    label_rows,
    measure,
    mixture_rows,
    promise_rows,
    record_verdicts,
    unpromised,
)
from cluster.workers.task import ReadyCase, SearchJob
from engine.core.errors import InputError, WorkError
from engine.core.files import remove
from engine.core.plans import Ran, Work, carry_out
from engine.core.progress import Progress, Tick, ignore, unseen
from engine.core.types import Float32
from engine.localize.weights_file import ARROW, CSV
from engine.methods.base import MethodJob, Offer, Repair, Subject, lacking
from engine.methods.mixtures import MixtureMethod, Promised, unchanged
from engine.methods.outcome import CHOSEN, Cell, MethodOutcome, chosen, judged
from engine.methods.registry import method_of
from engine.metrics.requirements import Verdict, check_rows
from engine.models.load import check_fits
from engine.patches.patch import Patch, patch_between
from engine.problem.crossfit import mixture_space, plan_of
from engine.problem.problem import SearchEnd
from engine.targets.memory import Plan, check_plan
from engine.targets.resolve import resolve_target


@dataclass(frozen=True, eq=False, kw_only=True)
class MethodRepair(Asked):
    """What to repair with what.

    Attributes:
        model: to repair.
        target: its weights under repair, whose features are cached.
        chain: the same as what methods change.
        rows: image sets of the repair.
        folder: of those, for the records.
        repaired: labels under repair; none for all that have failures.
        requirements: of the result.
        stated: the user stated them.
        method: its name.
        settings: of the method.
        seeds: of each a repair, or of a method that makes promises a search; the best is kept.
        validation: rows that choose, or join in judging; or None.
        test: rows that only measure, or None.
        output: gets the patch and the repaired model.
        overwrite: replace an output folder that is not a repaired model.
        allow_shared_rows: as of `cluster.runs.optimize.Repairs`.
        checkpoints: folder with checkpoints of the training, or None.
        last: which of them are compared, from the end.
        unreadable: chunks that could not be opened, and why.
        chunks: names of all, where the rows are those of chunks.
        label_file: `labels.json` that gets the weights of its labels and their new values, or None.
    """

    folder: Path
    method: str
    seeds: Sequence[int]
    overwrite: bool = False
    unreadable: Mapping[Path, str] = field(default_factory=dict)
    chunks: tuple[str, ...] | None = None
    label_file: Path | None = None

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """Of the first set that has some."""
        sets = (*self.rows, *self.held_out.values())
        return next((images.label_names for images in sets if images.label_names), None)

    @cached_property
    def promises(self) -> bool:
        """The method judges its mixtures by itself, and makes promises."""
        repair = method_of(self.method).repair
        return isinstance(repair, MixtureMethod) and repair.promises

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The repairs of a method that makes no promises: one for each seed."""
        seeds = enumerate(self.seeds)
        return tuple(Cell(f"{self.method}-s{seed}", self.method, number, seed, None, True) for number, seed in seeds)


@dataclass(frozen=True, eq=False)
class Watching:
    """Who is told of the progress of a run.

    Attributes:
        rows: of row passes.
        repairs, tunings: start the progress of so many.
        iterations: called with (search, how many iterations more, best fitness so far).
        jobs: called with the content of `progress.json` as it changes.
    """

    rows: Progress = unseen
    repairs: Callable[[int], Tick] = lambda count: ignore
    tunings: Callable[[int], Tick] = lambda count: ignore
    iterations: OnIterations | None = None
    jobs: OnJobs | None = None


def check_repair(work: MethodRepair) -> None:
    """Refuse what cannot work, before any row is read.

    Raises:
        InputError: there are no rows, sets do not fit the model, or have no rows to judge a requirement by; or the
            output would replace what it must not.
    """
    check_output(work.output, work.model, overwrite=work.overwrite)
    check_sets(work)


def check_sets(work: MethodRepair) -> None:
    for images in (*work.rows, *work.held_out.values()):
        check_fits(images, work.model)
    classes = work.model.classes
    sets = [*work.rows, *([] if work.validation is None else [work.validation])]
    if not any(images.rows for images in work.rows):
        raise InputError(f"{work.folder}: holds no rows to repair on, expected some")
    labels = np.concatenate([images.labels for images in sets])
    check_rows(work.requirements, np.bincount(labels, minlength=classes), work.folder)
    if work.test is not None and work.stated:
        check_rows(work.requirements, np.bincount(work.test.labels, minlength=classes), work.test.path)


def memory_plan(work: MethodRepair) -> Plan:
    validation = 0 if work.validation is None else work.validation.rows
    return plan_of(work.chain, sum(images.rows for images in work.rows), validation, work.settings.crossfit)


def check_memory(work: MethodRepair, compute: Compute) -> None:
    """Say what memory a repair takes, and refuse one that cannot fit, before any row is read."""
    plan = memory_plan(work)
    for sentence in plan.sentences():
        compute.say(sentence)
    check_plan(plan)


def rows_of_repair(work: MethodRepair, compute: Compute, on_rows: Progress = unseen) -> RepairRows:
    """Read the rows of a repair; chunks that cannot be read are left out."""
    leave_out = not work.promises or work.chunks is not None
    rows = read_rows(work, compute, compute.handle(work.model, work.target), on_rows, leave_out=leave_out)
    folders = {path: path.parent if work.chunks is not None else path for path in rows.unreadable}
    unreadable = {folders[path]: why for path, why in rows.unreadable.items()}
    return replace(rows, unreadable={**work.unreadable, **unreadable})


def run_repair(
    work: MethodRepair,
    compute: Compute,
    directory: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    part: Part | None = None,
    parts: Parts | None = None,
    rows: RepairRows | None = None,
    told: Watching | None = None,
) -> int:
    """Repair a model and record the run in a directory, where nobody else works meanwhile.

    Args:
        work: what to do, as checked by `check_repair`.
        compute: where; one thread in every process keeps the bits the same everywhere.
        directory: of the run.
        resume: go on with the run in the directory, or start it; one that had come to its end stays as it is.
        overwrite: replace an earlier run.
        part: run the tunings of this part alone, and decide nothing.
        parts: of the same repair, which have tuned.
        rows: of the repair, where they have been read.
        told: who is told of the progress.

    Returns:
        The exit code: 3 where what the user requires is not promised, or not met on test rows (by other methods: or on
        those of validation without them); 4 where chunks could not be read or some seeds failed.

    Raises:
        InputError: bad input; nothing has been written. Or a worker lacks the method.
        WorkError: the method failed for every seed, the disk is full or no worker is left.
    """
    told = told or Watching()
    how: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "part": part, "parts": parts}
    with claimed(directory, compute, **how) as claim, enough_room(directory):
        rows = rows_of_repair(work, compute, told.rows) if rows is None else rows
        check_rows(work.requirements, rows.judged, work.folder)
        subject = subject_of(rows, compute, work, told.rows)
        if why := lacking(method_of(work.method), subject):
            raise InputError(why)
        facts = claim.facts(_facts(work, subject, rows, compute))
        if (before := claim.ended(facts)) is not None:
            return int(before["exit_code"])
        with claim.recorded(facts, OUTPUTS if directory == work.output else ()) as (records, end):
            run = _Run(work, compute, records, subject, rows, told)
            code, more = run.tune(part) if part is not None else run.repair()
            end.more, end.earlier = {**more, "exit_code": code}, run.earlier
    return code


class _Run:
    def __init__(
        self,
        work: MethodRepair,
        compute: Compute,
        records: RunRecords,
        subject: Subject,
        rows: RepairRows,
        told: Watching,
    ) -> None:
        self.work, self.compute, self.records, self.subject, self.rows = work, compute, records, subject, rows
        self.told, self.handle = told, compute.handle(work.model, work.target)
        self.earlier = 0.0
        """Seconds of the commands before this one."""

    @property
    def label(self) -> int:
        repaired = self.subject.repaired
        return repaired[0] if len(repaired) == 1 else -1

    def repair(self) -> tuple[int, dict[str, Any]]:
        """All of it; the exit code, and what `run.json` says more."""
        if self.work.promises:
            return self._promised()
        work, records = self.work, self.records
        self.earlier = run_cells(
            [(self.subject, work.cells)], self.compute, self.handle, records, self.told.repairs, opens=True
        )
        rows = ended_repairs(records)
        offers: dict[int, Offer] = {}
        for cell in work.cells:
            found = changed_of(records, cell, self.subject)
            if found is not None:
                offers[cell.draw] = Offer(cell.name, found, rows[cell.draw]["best"] or 0.0)
        if not offers:
            raise WorkError(f"{work.method} cannot repair this model: {rows[0]['note']}")
        best = _best(self.subject, offers)
        jobs = [
            job_row(cell, rows[cell.draw], work.folder, self.label, chosen=cell.draw == best) for cell in work.cells
        ]
        records.replace("jobs", work.method, jobs)
        new = {} if best is None else offers[best].values
        patch, measured, verdicts = self._save(new)
        self._tell_label_file(new)
        records.replace("labels", work.method, label_rows("" if best is None else work.cells[best].name, measured))
        mark_missing(work.output, missed(verdicts))
        judge = verdicts.get("test", verdicts.get("validation", ()))
        notes = sorted({row["note"] for row in rows.values() if row["note"]})
        if not len(patch):
            why = ", which keeps more on rows of validation than what it offers"
            why = "" if self.subject.validation is None else why
            notes.append(f"{work.method} keeps the baseline model{why}: it is copied unchanged")
        code = 4 if self.rows.unreadable or len(offers) < len(work.cells) else 0
        return code or (3 if work.stated and not all(verdict.met for verdict in judge) else 0), {"notes": notes}

    def tune(self, part: Part) -> tuple[int, dict[str, Any]]:
        """The tunings of a part, which are kept."""

        def mine(keys: list[str]) -> frozenset[str]:
            found = part.mine(keys)
            self.compute.say(f"part {part}: {len(found)} of {len(keys)} tasks of tunings")
            return found

        self._carried_out(mine)
        return 4 if self.rows.unreadable else 0, {}

    def _carried_out(self, mine: Callable[[list[str]], frozenset[str]] | None = None) -> tuple[Ledger, MethodOutcome]:
        work, subject = self.work, self.subject
        recipes = work.settings.crossfit.recipes
        naming = mixture_space(len(recipes), work.chain)
        ledger = Ledger(self.records, naming, self.told.jobs)
        self.earlier = ledger.earlier
        for folder, note in self.rows.unreadable.items():
            job = SearchJob(f"chunk{folder.name}", work.settings.crossfit.search, work.seeds[0])
            ledger.fail(1, folder, self.label, [job], note)

        def searches(works: Sequence[Work]) -> list[tuple[Float32, float, float]]:
            case, problem = works[0].args
            old = case.weights.old
            places = patch_places(naming.patch(case.index, old, old), naming.shapes)
            ready = ReadyCase(case, problem, work.folder, places)
            jobs = tuple(SearchJob(one.name, one.args[1].settings, one.args[1].source.seed) for one in works)
            search(self.compute, self.handle, [(ready, jobs)], ledger, self.told.iterations)
            ends = ledger.ended([job.name for job in jobs])
            return [SearchEnd(end.values[0], end.fitness, end.start_fitness) for end in ends]

        executor = Works(self.compute, self.handle, opens=True, searches=searches)
        first, *more = work.seeds
        args = method_of(work.method), MethodJob(subject, None, first, tuple(more))
        works = [Work(f"{work.method}-s{first}", judged, args, "repair")]
        outcome = MethodOutcome({})
        for _, value in carry_out(works, executor, _Kept(self.records, ledger, self.told.tunings), mine=mine):
            outcome = value
        return ledger, outcome

    def _promised(self) -> tuple[int, dict[str, Any]]:
        work, subject, records = self.work, self.subject, self.records
        ledger, outcome = self._carried_out()
        promise: Promised = outcome.promise or unchanged(MethodJob(subject, None, work.seeds[0]))
        frontier = promise.frontier
        left_out = [f"left out: {note}" for note in self.rows.unreadable.values()]
        notes = [*left_out, *_notes(work, subject.repaired, self.rows, outcome)]
        new = outcome.readings[CHOSEN].offer.values
        _, measured, verdicts = self._save(new)
        name = "crossfit"
        out_of_fold = before_and_after(name, "step", "out of fold", promise.judged)
        records.replace("labels", name, [*label_rows(name, measured), *out_of_fold])
        records.replace("promises", name, promise_rows(frontier))
        if promise.fit.search:
            records.replace("mixture", name, mixture_rows(promise))
            records.replace("frontier", name, frontier_rows(frontier, subject.repaired))
            ledger.choose([promise.fit.search])
        mark_missing(work.output, [*unpromised(frontier), *missed(verdicts)])
        met = frontier.promised and all(verdict.met for verdict in verdicts.get("test", ()))
        code = 4 if self.rows.unreadable else 0 if met or not work.stated else 3
        told = {
            "notes": notes,
            "promised": frontier.promised,
            "step": frontier.point.step,
            "chance": frontier.point.chance,
            "enough": None if frontier.easiest is None else frontier.easiest.enough,
        }
        return code, told

    def _save(self, new: Mapping[str, Float32]) -> tuple[Patch, tuple[Measured, ...], dict[str, tuple[Verdict, ...]]]:
        work, records = self.work, self.records
        records.check_ours()
        for name in (PATCH, NOT_MET_FILE):  # of an earlier model
            remove(work.output / name)
        if work.output != work.folder:
            for name in (CSV, ARROW):
                remove(work.output / name)
        saved, patch = save_values(work.model, work.chain.values, new, work.output, work.rows[0], records.directory)
        sets = {split: (images, self.rows.before[split]) for split, images in work.held_out.items()}
        with measuring(saved):
            measured = measure(self.compute, work.model, saved, sets, self.told.rows)
        return patch, measured, record_verdicts(records, measured, work.requirements)

    def _tell_label_file(self, new: Mapping[str, Float32]) -> None:
        path, model, priorities = self.work.label_file, self.work.model, self.work.settings.priorities
        if path is None or priorities is None:
            return
        if not new:
            self.compute.say(f"{path} stays as it is: no weight has changed")
            return
        (name,) = new  # priorities steer searches of the last layer alone
        patch = patch_between(name, self.subject.chain.values[name], new[name])
        target = resolve_target(model.model, model.loss, model.classes, model.path, (name,))
        with TemporaryDirectory() as folder:
            target.write_localised(Path(folder), target.index_of(patch, str(path)), patch.old, patch.new)
            tell_label_file(path, Path(folder), priorities.repaired(self.subject.repaired), self.compute.say)


class _Kept:
    """The journal of a repair by mixtures: tunings as checkpoints until the end; searches are in the books."""

    def __init__(self, records: RunRecords, ledger: Ledger, on_tunings: Callable[[int], Tick]) -> None:
        self._records, self._ledger, self._on_tunings = records, ledger, on_tunings
        self._stages = Stages(records)
        self._tick: Tick = ignore
        self._done = self._total = 0

    def expect(self, works: Sequence[Work]) -> None:
        self._total = sum(work.size for work in works if work.kind == "tuning") or self._total
        if any(work.kind == "tuning" for work in works):
            self._tick = self._on_tunings(self._total)
            self._ledger.tunings(0, self._total)

    def get(self, key: str, work: Work) -> tuple[bool, Any]:
        if work.kind != "tuning":
            return False, None
        known, value = self._stages.get(key, work)
        if known:
            self._tell(key, work, value, Ran("checkpoint"))
        return known, value

    def put(self, key: str, work: Work, value: Any, ran: Ran) -> None:
        if work.kind == "tuning":
            self._stages.put(key, value)
            self._tell(key, work, value, ran)

    def _tell(self, key: str, work: Work, value: Any, ran: Ran) -> None:
        for table, rows in ({} if work.rows is None else work.rows(value, ran)).items():
            self._records.replace(table, key, rows)
        self._done += work.size
        self._tick(work.size)
        self._ledger.tunings(self._done, self._total)


def _best(subject: Subject, offers: Mapping[int, Offer]) -> int | None:
    """The number of the seed that is kept, by rows of validation or else by fitness; None for the baseline model."""
    if subject.validation is None:
        return max(offers, key=lambda number: offers[number].fitness)
    taken = chosen(subject, Repair(list(offers.values())))
    return next((number for number, offer in offers.items() if offer is taken), None)


def _notes(work: MethodRepair, repaired: Sequence[int], rows: RepairRows, outcome: MethodOutcome) -> list[str]:
    if outcome.promise is None:
        which = f" of label {', '.join(map(str, repaired))}" if repaired else ""
        return [f"the model gets every row{which} right, it is copied unchanged"]
    notes = []
    if work.chain.offsets is None:
        notes.append("the last layer has no bias to fold offsets of labels into: none were searched")
    missing = np.flatnonzero(rows.judged == 0).tolist()
    if missing:
        notes.append(f"no row has label {', '.join(map(str, missing))}: nothing is promised of that")
    copies = len(rows.pool.labels) - len(outcome.promise.fit.job.rows.labels)
    if copies:
        notes.append(f"{copies} repair rows are copies of others: each row counts once")
    return notes


def _facts(work: MethodRepair, subject: Subject, rows: RepairRows, compute: Compute) -> dict[str, Any]:
    settings = asdict(work.settings.crossfit if work.promises else work.settings)
    identity = {
        "method": work.method,
        "scipy": importlib.metadata.version("scipy"),  # which has the normal distribution
        "seeds": list(work.seeds),
        "chunks": None if work.chunks is None else list(work.chunks),
        "left out": [path.name for path in rows.unreadable],
    }
    arguments = {"seeds": list(work.seeds), "rows": [str(images.path) for images in work.rows]}
    chain = work.chain
    paths = (*chain.tuned, *([] if chain.offsets is None else [chain.offsets])) if work.promises else chain.values
    return {
        **method_facts(work, subject, rows, compute, [work.method], settings, identity, arguments),
        "method": work.method,
        "target": {path: list(chain.values[path].shape) for path in dict.fromkeys(paths)},
        "data": subject.pool.rows.fingerprint,
        **({"plan": memory_plan(work).facts()} if work.promises else {}),
    }
