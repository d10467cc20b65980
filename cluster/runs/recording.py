"""A run directory as a command uses it: claimed, started or resumed, and ended; `run.json` says how."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.compute.compute import Compute
from cluster.records.store import RunRecords, holds_run, read_facts
from cluster.runs.parts import PART, Part, Parts, end_part
from engine.core.files import remove
from engine.core.lock import LOCK, Lock, locked


@dataclass(eq=False)
class Ending:
    """What a run came to: what `run.json` says more of it, and seconds of the commands before this one."""

    more: dict[str, Any] = field(default_factory=dict)
    earlier: float = 0.0


@contextmanager
def recording(
    records: RunRecords, facts: Mapping[str, Any], compute: Compute, begun: float, part: Part | None = None
) -> Iterator[Ending]:
    """Do the work of a run, which has `begun` by `time.perf_counter`, in the body, and say in `run.json` how it ended.

    The files of a `part` stay for those who join it.
    """
    with records.telling_end(facts):
        end = Ending()
        yield end
        seconds = end.earlier + time.perf_counter() - begun
        how = {"hardware": compute.hardware_kind(), "placement": compute.decisions, "seconds": seconds}
        ended = {**facts, **how, **end.more}
        if part is None:
            records.compact(ended)
        else:
            end_part(records, ended)


@dataclass(frozen=True, eq=False)
class Claim:
    """A run directory in which nobody else works."""

    directory: Path
    compute: Compute
    lock: Lock
    resume: bool
    overwrite: bool
    part: Part | None
    parts: Parts | None
    begun: float

    def facts(self, whole: Mapping[str, Any]) -> dict[str, Any]:
        share = self.part or self.parts
        return dict(whole) if share is None else share.facts(whole)

    def ended(self, facts: Mapping[str, Any]) -> dict[str, Any] | None:
        """The `run.json` of the run that is to be resumed, where that has come to its end; None where there is work."""
        if not (self.resume and holds_run(self.directory)):
            return None
        RunRecords.check_same(self.directory, facts)
        before = read_facts(self.directory)
        return before if before.get("state") in ("done", PART) else None

    def start(self, facts: Mapping[str, Any], outputs: Sequence[str] = ()) -> RunRecords:
        """Start the run, or go on with it; `outputs` of another run in the directory go."""
        fresh = not (self.resume and holds_run(self.directory))
        how = {"resume": self.resume, "overwrite": self.overwrite}
        records = RunRecords.start(self.directory, facts, **how, lock=self.lock)
        for name in outputs if fresh else ():
            remove(self.directory / name)
        return records

    @contextmanager
    def recorded(self, facts: Mapping[str, Any], outputs: Sequence[str] = ()) -> Iterator[tuple[RunRecords, Ending]]:
        """`start` and `recording`; what parts have found is joined first."""
        records = self.start(facts, outputs)
        with recording(records, facts, self.compute, self.begun, self.part) as end:
            if self.parts is not None:
                self.parts.join(records)
            yield records, end


@contextmanager
def claimed(
    directory: Path,
    compute: Compute,
    *,
    resume: bool,
    overwrite: bool,
    part: Part | None = None,
    parts: Parts | None = None,
) -> Iterator[Claim]:
    """Claim a run directory, which is in use or not as `resume` and `overwrite` allow, until the body ends."""
    if not (resume and holds_run(directory)):
        RunRecords.check_new(directory, overwrite=overwrite)
    with locked(directory / LOCK, directory, say=compute.say) as lock:
        yield Claim(directory, compute, lock, resume, overwrite, part, parts, time.perf_counter())
