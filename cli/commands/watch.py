"""`watch`: follow a run from another terminal."""

from __future__ import annotations

import functools
import json
import math
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from cli.run_report.words import COMPARE, begun, duration, kind_of, plural
from cli.shared.console import echo
from cli.shared.method_options import CROSSFIT
from cli.shared.options import PATH, option
from engine.core.errors import InputError
from engine.core.names import escaped

QUIET_SECONDS = 60.0  # a run that has written nothing for so long is looked at more closely


@dataclass(frozen=True)
class Status:
    """What is not known is None or empty."""

    step: int | None  # round or iteration
    steps: int | None
    done: int  # searches, or repairs
    total: int | None
    tunings: tuple[int, int] | None  # of CrossFit, how many have ended of how many, which come before its searches
    elapsed: float | None  # seconds
    left: float | None  # seconds
    best: str  # what is best so far, in words
    workers: int  # processes that have finished a search
    quiet: float  # seconds since the run has written anything
    unit: tuple[str, str] = ("search", "searches")  # what is counted, one and many

    @property
    def ahead(self) -> tuple[int, int | None]:
        """How many of how many have ended: of the tunings until all have, then of the searches."""
        if self.tunings is not None and self.tunings[0] < self.tunings[1]:
            return self.tunings
        return self.done, self.total


@click.command(short_help="Follow a run from another terminal.")
@click.argument("run", type=PATH, metavar="RUN")
@option("--interval", default=1.0, help="Seconds between two looks.")
def command(run: Path, interval: float) -> None:
    """Follow a run until it ends, then print what `report` prints.

    Ends with exit code 0 however the run ended: its own exit code is in the report. A run that died without
    saying so - its process on this machine is gone and it has written nothing for 60 seconds - is reported as
    stopped, with exit code 0 too; a batch is then continued with --resume. Whether a process on another machine
    is alive cannot be seen from here: of such a run the seconds without a sign of life are shown, and watching
    goes on. Ctrl-C ends watching, not the run.

    Example: repair-dist watch runs/batch-20260102-030405-000000
    """
    if not (interval > 0 and math.isfinite(interval)):
        raise InputError(f"interval is {interval:g}, expected a number of seconds above 0")

    from cli.run_report.text import summary
    from cli.run_report.view import read_run
    from cluster.records.store import read_facts, read_there

    facts = read_there(run, read_facts)
    with _screen() if sys.stderr.isatty() else _lines() as show:
        while facts.get("state") == "running":
            status = read_there(run, functools.partial(read_status, facts=facts))
            show(status)
            gone = status.quiet > QUIET_SECONDS and _process_is_gone(facts)
            if not gone:
                time.sleep(interval)
            facts = read_there(run, read_facts)
            if gone:
                break
    if facts.get("state") == "running":
        resumed = facts.get("method") or kind_of(facts) != "optimize"
        resume = ", expected to be continued with --resume" if resumed else ""
        echo(
            f"{run}: the run seems to have stopped, its process {facts['pid']} is gone and nothing was written for "
            f"{duration(status.quiet)}{resume}",
            err=True,
        )
    echo(summary(read_there(run, read_run)))


def read_status(run: Path, facts: Mapping[str, Any]) -> Status:
    """From `progress.json`, or where a run keeps none from its tables."""
    try:
        progress = json.loads((run / "progress.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        progress = _from_tables(run, facts)
    tunings, compares = progress.get("tunings"), kind_of(facts) == COMPARE
    return Status(
        step=None if compares else progress.get("step"),
        steps=progress.get("steps"),
        done=progress["jobs_done"],
        total=progress.get("jobs"),
        tunings=None if tunings is None else (tunings[0], tunings[1]),
        elapsed=progress.get("elapsed"),
        left=progress.get("left"),
        best=progress.get("best") or "",
        workers=len(progress.get("workers") or {}),
        quiet=_quiet_seconds(run),
        unit=("repair", "repairs") if compares else ("search", "searches"),
    )


def words(status: Status) -> dict[str, str]:
    step = "" if status.step is None else f"step {status.step}" + (f" of {status.steps}" if status.steps else "")
    many = status.unit[1]
    done = f"{status.done} of {status.total} {many}" if status.total else plural(status.done, *status.unit)
    if status.tunings is not None:
        step = "{} of {} tunings".format(*status.tunings)
        done = "" if status.ahead == status.tunings else done
    rest = []
    if status.elapsed and status.done:
        rest.append(_rate(status.done / status.elapsed, many))
    if status.left is not None:
        rest.append(f"{duration(status.left)} left")
    if status.workers:
        rest.append(plural(status.workers, "worker", "workers"))
    if status.quiet > QUIET_SECONDS:
        rest.append(f"no sign of life for {duration(status.quiet)}")
    best = f"best: {escaped(status.best)}" if status.best else ""
    return {"step": step, "done": done, "rest": ", ".join(rest), "best": best}


@contextmanager
def _lines() -> Iterator[Callable[[Status], None]]:
    """A line for every change, where there is no terminal."""
    last: object = None

    def show(status: Status) -> None:
        nonlocal last
        now = (status.step, status.tunings, status.done, status.total, status.best, status.quiet > QUIET_SECONDS)
        if now != last:
            last = now
            echo(", ".join(filter(None, words(status).values())), err=True)

    yield show


@contextmanager
def _screen() -> Iterator[Callable[[Status], None]]:
    """A bar of the tunings or searches and a line about the best, rewritten in place."""
    bar, best = (tqdm(position=row, leave=False, dynamic_ncols=True, bar_format="{desc}") for row in (0, 1))

    def show(status: Status) -> None:
        said = words(status)
        done, total = status.ahead
        bar.bar_format = "|{bar:24}| {desc}" if total else "{desc}"
        bar.total, bar.n = total, min(done, total or done)
        bar.set_description_str(", ".join(filter(None, (said["step"], said["done"], said["rest"]))))
        best.set_description_str(said["best"])

    try:
        yield show
    finally:
        best.close()
        bar.close()


def _from_tables(run: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    from cluster.records.store import read_table

    if kind_of(facts) == COMPARE:
        return _from_outcomes(read_table(run, "outcomes"), facts)
    jobs = read_table(run, "jobs").to_pylist()
    ended = [job for job in jobs if job["state"] != "running"]
    best = max((job["fitness"] for job in jobs if job["fitness"] is not None), default=None)
    tuned = {}
    if kind_of(facts) == CROSSFIT:
        settings = facts["arguments"]["settings"]
        tuned["tunings"] = (len(read_table(run, "tunings")), len(settings["recipes"]) * settings["folds"])
    return {
        **tuned,
        "step": max((job["step"] for job in jobs), default=None),
        "jobs_done": len(ended),
        "elapsed": _elapsed(facts),
        "best": "" if best is None else f"fitness {best:.4g}",
        "workers": dict.fromkeys(job["worker"] for job in ended if job["worker"]),
    }


def _from_outcomes(outcomes: Any, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Each repair has rows for its readings, or one that says why it failed."""
    ended = {(row["method"], row["draw"]): row["worker"] for row in outcomes.drop_columns(["after"]).to_pylist()}
    return {
        "jobs_done": len(ended),
        "jobs": len(facts.get("methods") or ()) * int(facts.get("draws") or 0) or None,
        "elapsed": _elapsed(facts),
        "workers": dict.fromkeys(worker for worker in ended.values() if worker),
    }


def _elapsed(facts: Mapping[str, Any]) -> float | None:
    started = facts.get("started")
    return (datetime.now(timezone.utc) - begun(started)).total_seconds() if started else None


def _quiet_seconds(run: Path) -> float:
    """Since anything in the run directory has changed; its clock and ours are taken to agree."""
    newest = 0.0
    for path in [run, *run.iterdir()]:
        with suppress(FileNotFoundError):  # replaced just now
            newest = max(newest, path.stat().st_mtime)
    return max(time.time() - newest, 0.0)


def _process_is_gone(facts: Mapping[str, Any]) -> bool:
    pid = facts.get("pid")
    if pid is None or facts.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False  # somebody else's
    return False


def _rate(per_second: float, many: str) -> str:
    for unit, seconds in (("s", 1), ("min", 60)):
        if per_second * seconds >= 1:
            return f"{per_second * seconds:.1f} {many}/{unit}"
    return f"{per_second * 3600:.1f} {many}/h"
