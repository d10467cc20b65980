"""Plans: generators that yield the work of a repair, and the driver that carries many of them out.

A plan yields lists of `Work`, is sent their results in the same order, and returns what it comes to. Work is a pure
call. Where the call is a generator function, the work is a plan itself: an executor may run it whole in one place, or
have the driver open it and spread what it yields. Neither changes a bit of the result.

Nothing here knows where work runs. An interrupted run goes on by replay: the generator runs again, and is sent the
results that a journal has kept instead of computing them anew.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from engine.core.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Work:
    """A pure call of a plan."""

    # unique among the work that its plan keeps, and the same whenever that runs again, as are the call and its
    # arguments
    name: str
    # a function of a module, so that it can travel. A generator function makes the work a plan.
    call: Callable[..., Any]
    # its arguments. Those that several pieces of work share should be one object: it travels once.
    args: tuple[Any, ...] = ()
    kind: str = "work"  # in words, for messages
    # keep the result for a run that goes on; it must then be made of plain values: None, numbers, texts, NumPy arrays,
    # and lists, tuples and dicts of these
    keep: bool = True
    model: bool = False  # the call wants the tail of the model under repair too, as `tail`
    size: int = 1  # what it counts in the progress of its kind
    # rows of tables by name that tell of the result, given that and what ran it
    rows: Callable[[Any, Ran], dict[str, list[dict[str, Any]]]] | None = None

    @property
    def is_plan(self) -> bool:
        return any(map(inspect.isgeneratorfunction, (self.call, type(self.call).__call__)))


Plan = Generator[Sequence[Work], list[Any], T]


@dataclass(frozen=True)
class Ran:
    """What ran a piece of work: process, worker or checkpoint; its name; seconds."""

    where: str
    worker: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class Done:
    """A piece of work that has ended: its value, or the error that it raised."""

    token: Any
    work: Work
    value: Any
    error: Exception | None
    ran: Ran


class Executor(Protocol):
    """Where work runs."""

    def opens(self, work: Work) -> bool:
        """Whether the driver is to open a plan, so that what it yields is spread; else it runs whole."""

    def submit(self, token: Any, work: Work) -> None:
        """Take a piece of work; `token` comes back with its result."""

    def results(self) -> Sequence[Done]:
        """Wait until some work has ended; there is work that has not."""


class Journal(Protocol):
    """What a run keeps of its work; the key of a piece is its name behind those of the plans that it is in."""

    def expect(self, works: Sequence[Work]) -> None:
        """A plan has yielded work, which is to run or was kept."""

    def get(self, key: str, work: Work) -> tuple[bool, Any]:
        """Whether a result was kept, and that result."""

    def put(self, key: str, work: Work, value: Any, ran: Ran) -> None:
        """A result has come."""


class Forgetful:
    """A journal that keeps nothing."""

    def expect(self, works: Sequence[Work]) -> None:
        """Nothing is told of."""

    def get(self, key: str, work: Work) -> tuple[bool, Any]:
        """Nothing was kept."""
        return False, None

    def put(self, key: str, work: Work, value: Any, ran: Ran) -> None:
        """Nothing is kept."""


def value_of(work: Work, tail: Any = None) -> Any:
    """The result of a piece of work in this process, plans and all that they yield included."""
    value = work.call(*work.args, tail=tail) if work.model else work.call(*work.args)
    return run_here(value, tail) if isinstance(value, Generator) else value


def run_here(plan: Plan[T], tail: Any = None) -> T:
    """Run a plan in this process, one piece of work after the other; an error of one is raised in the plan."""
    results: list[Any] | None = None
    error: Exception | None = None
    names: set[str] = set()
    try:
        while True:
            wanted = _continued(plan, results, error, names)
            results, error = [], None
            for work in wanted:
                try:
                    results.append(value_of(work, tail))
                except Exception as found:  # noqa: PERF203
                    error = found
                    break
    except StopIteration as end:
        value: T = end.value
        return value


def _continued(plan: Plan[Any], results: list[Any] | None, error: Exception | None, names: set[str]) -> Sequence[Work]:
    """What a plan yields next; a name of kept work that comes twice is an error, as it stands for one result."""
    if error is not None:
        wanted = plan.throw(error)
    elif results is None:
        wanted = next(plan)
    else:
        wanted = plan.send(results)
    for name in [work.name for work in wanted if work.keep]:
        if name in names:
            twice = InputError(f"two pieces of work are called {name!r}, expected another name for each")
            return _continued(plan, None, twice, names)
        names.add(name)
    return wanted


@dataclass(eq=False)
class _Open:
    plan: Plan[Any]
    key: str
    work: Work
    parent: _Open | None
    slot: int
    results: list[Any] | None = None
    errors: dict[int, Exception] = field(default_factory=dict)
    waiting: int = 0
    names: set[str] = field(default_factory=set)


def carry_out(
    works: Iterable[Work],
    executor: Executor,
    journal: Journal,
    *,
    window: int = 64,
    mine: Callable[[list[str]], Collection[str]] | None = None,
) -> Iterator[tuple[int, Any]]:
    """Carry work out and yield (number, result) as each piece ends, in any order; what a piece raises is raised.

    A plan gets the results of a list once all of it has ended, or the first error. `window` pieces of `works` are open
    at once. `mine` picks of the keys of work to keep that a plan yields together those to run; None runs all.
    """
    coming, opened, more = enumerate(works), 0, True
    driver = _Driver(executor, journal, mine)
    while True:
        while more and opened < window:
            number, work = next(coming, (-1, None))
            if work is None:
                more = False
                break
            opened += 1
            driver.start(work.name, work, None, number)
        for number, value in driver.deliver():
            opened -= 1
            yield number, value
        if driver.outstanding:
            driver.collect()
        elif not more and (not opened or mine is not None):
            return


class _Driver:
    def __init__(self, executor: Executor, journal: Journal, mine: Callable[[list[str]], Collection[str]] | None):
        self.outstanding = 0
        # Results on their way to a plan, or to the caller: a queue, as plans of kept results would recurse.
        self.arrived: deque[tuple[_Open | None, int, Any, Exception | None]] = deque()
        self._executor, self._journal, self._mine = executor, journal, mine

    def start(self, key: str, work: Work, parent: _Open | None, slot: int) -> None:
        known, value = self._journal.get(key, work) if work.keep else (False, None)
        if known:
            self.arrived.append((parent, slot, value, None))
        elif work.is_plan and self._executor.opens(work):
            self._advance(_Open(work.call(*work.args), key, work, parent, slot))
        else:
            self._executor.submit((key, parent, slot), work)
            self.outstanding += 1

    def collect(self) -> None:
        for done in self._executor.results():
            self.outstanding -= 1
            key, parent, slot = done.token
            if done.error is None and done.work.keep:
                self._journal.put(key, done.work, done.value, done.ran)
            self.arrived.append((parent, slot, done.value, done.error))

    def deliver(self) -> Iterator[tuple[int, Any]]:
        """Send plans their results; yields those of the caller."""
        while self.arrived:
            node, slot, value, error = self.arrived.popleft()
            if node is not None:
                assert node.results is not None
                node.results[slot] = value
                if error is not None:
                    node.errors[slot] = error
                node.waiting -= 1
                self._advance(node)
            elif error is not None:
                raise error
            else:
                yield slot, value

    def _advance(self, node: _Open) -> None:
        """Let a plan go on that waits for nothing."""
        while not node.waiting:
            try:
                error = node.errors[min(node.errors)] if node.errors else None
                wanted = _continued(node.plan, node.results, error, node.names)
            except StopIteration as end:
                if node.work.keep:
                    self._journal.put(node.key, node.work, end.value, Ran("process"))
                self.arrived.append((node.parent, node.slot, end.value, None))
                return
            except Exception as found:
                self.arrived.append((node.parent, node.slot, None, found))
                return
            node.results, node.errors, node.waiting = [None] * len(wanted), {}, len(wanted)
            keys = [f"{node.key}/{work.name}" for work in wanted]
            chosen = set(range(len(keys)))
            if self._mine is not None:
                some = self._mine([key for key, work in zip(keys, wanted, strict=True) if work.keep])
                chosen = {slot for slot in chosen if not wanted[slot].keep or keys[slot] in some}
            self._journal.expect([wanted[slot] for slot in sorted(chosen)])
            for slot in sorted(chosen):
                self.start(keys[slot], wanted[slot], node, slot)
