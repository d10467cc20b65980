"""Plans and their driver: order, replay, errors, parts, and plans within plans; here and opened, the same results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.errors import InputError
from engine.core.plans import Done, Forgetful, Plan, Ran, Work, carry_out, run_here, value_of


class Here:
    """Runs what waits in this process; the last comes first, as results may come in any order."""

    def __init__(self, *, opens: bool = True) -> None:
        self.queue: deque[tuple[Any, Work]] = deque()
        self.ran: list[str] = []
        self._opens = opens

    def opens(self, work: Work) -> bool:
        return self._opens

    def submit(self, token: Any, work: Work) -> None:
        self.queue.append((token, work))

    def results(self) -> Sequence[Done]:
        token, work = self.queue.pop()
        self.ran.append(work.name)
        try:
            return [Done(token, work, value_of(work), None, Ran("process"))]
        except ValueError as error:
            return [Done(token, work, None, error, Ran("process"))]


class Kept(dict[str, Any]):
    """A journal in memory."""

    def expect(self, works: Sequence[Work]) -> None:
        pass

    def get(self, key: str, work: Work) -> tuple[bool, Any]:
        return key in self, super().get(key)

    def put(self, key: str, work: Work, value: Any, ran: Ran) -> None:
        assert key not in self, "work that was kept ran again"
        self[key] = value


def double(number: int) -> int:
    return 2 * number


def fails(number: int) -> int:
    raise ValueError(f"there is no {number}")


def three_stages(number: int) -> Plan[int]:
    """Doubles a number, then both that and its double, and adds."""
    (first,) = yield [Work("first", double, (number,))]
    nothing = yield []
    assert nothing == []
    second, third = yield [Work("second", double, (first,)), Work("third", double, (first + 1,))]
    return int(second + third)


def nested(numbers: Sequence[int]) -> Plan[list[int]]:
    return (yield [Work(f"inner-{number}", three_stages, (number,)) for number in numbers])


def goes_on() -> Plan[str]:
    try:
        yield [Work("good", double, (1,)), Work("bad", fails, (2,)), Work("worse", fails, (3,))]
    except ValueError as error:
        (value,) = yield [Work("after", double, (4,))]
        return f"{error}, {value}"
    return "no error came"


def expected(number: int) -> int:
    return 2 * (2 * number) + 2 * (2 * number + 1)


@given(st.lists(st.integers(0, 99), unique=True, max_size=8), st.booleans(), st.integers(1, 9))
def test_every_plan_comes_to_the_same(numbers: list[int], opens: bool, window: int) -> None:
    works = [Work(str(number), three_stages, (number,)) for number in numbers]
    found = dict(carry_out(works, Here(opens=opens), Forgetful(), window=window))
    assert found == {place: expected(number) for place, number in enumerate(numbers)}
    assert run_here(nested(numbers)) == [expected(number) for number in numbers]
    ((_, inner),) = carry_out([Work("outer", nested, (numbers,))], Here(opens=opens), Forgetful())
    assert inner == run_here(nested(numbers))


@given(st.sets(st.integers(0, 6)))
def test_what_was_kept_does_not_run_again(kept: set[int]) -> None:
    """From any part of the results a plan comes to the same, by the rest of its work."""
    whole, plan = Kept(), Work("outer", nested, ((1, 2),))
    dict(carry_out([plan], Here(), whole))
    assert len(whole) == 9
    some = Kept({key: whole[key] for number, key in enumerate(sorted(whole)) if number in kept})
    before, here = set(some), Here()
    assert dict(carry_out([plan], here, some)) == {0: [expected(1), expected(2)]}
    assert {key: whole[key] for key in some} == some
    if "outer" in before:
        assert here.ran == []


def test_a_long_line_of_kept_results() -> None:
    """They are delivered in a loop: no limit of recursion is met."""

    def line() -> Plan[int]:
        total = 0
        for number in range(3000):
            (value,) = yield [Work(str(number), double, (number,))]
            total += value
        return total

    kept = Kept({f"line/{number}": 2 * number for number in range(3000)})
    assert dict(carry_out([Work("line", line)], Here(), kept)) == {0: 2999 * 3000}


@pytest.mark.parametrize("opens", [True, False])
def test_an_error_is_raised_where_the_work_was_yielded(opens: bool) -> None:
    assert dict(carry_out([Work("one", goes_on)], Here(opens=opens), Forgetful())) == {0: "there is no 2, 8"}
    with pytest.raises(ValueError, match="there is no 5"):
        dict(carry_out([Work("two", fails, (5,))], Here(), Forgetful()))


def twice(keep: bool) -> Plan[str]:
    (value,) = yield [Work("one", double, (1,), keep=keep)]
    try:
        (value,) = yield [Work("one", double, (value,), keep=keep)]
    except InputError as error:
        return str(error)
    return f"it came to {value}"


@pytest.mark.parametrize("opens", [True, False])
def test_a_name_stands_for_one_result(opens: bool) -> None:
    """Or a run that goes on would take one for the other; what is not kept may be called anything."""
    works = [Work("kept", twice, (True,)), Work("not kept", twice, (False,))]
    refused = "two pieces of work are called 'one', expected another name for each"
    assert dict(carry_out(works, Here(opens=opens), Forgetful())) == {0: refused, 1: "it came to 4"}


def test_a_part_runs_its_share_and_parts_together_all() -> None:
    plan, ran = Work("one", three_stages, (3,)), []

    def share(number: int) -> Callable[[list[str]], set[str]]:
        return lambda keys: {key for place, key in enumerate(sorted(keys)) if place % 2 == number}

    joined = Kept()
    for number in (0, 1):
        here = Here()
        assert list(carry_out([plan], here, joined, mine=share(number))) == []
        ran.append(here.ran)
    assert ran == [["first", "second"], []]  # a part stops where it lacks a result
    here = Here()
    assert dict(carry_out([plan], here, joined)) == {0: expected(3)}
    assert here.ran == ["third"]


def test_work_that_is_not_kept_and_a_method_that_yields() -> None:
    class Doubles:
        def __call__(self, number: int) -> Plan[int]:
            (found,) = yield [Work("inside", double, (number,), keep=False)]
            return int(found)

    kept, work = Kept(), Work("one", Doubles(), (4,), keep=False)
    assert work.is_plan and not Work("two", double, (1,)).is_plan
    assert dict(carry_out([work], Here(), kept)) == {0: 8}
    assert kept == {}
