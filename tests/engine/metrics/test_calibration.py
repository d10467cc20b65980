"""Promises against simulation: how many are given and then broken by new rows, where the true rates are known.

An attempt draws true rates, n judging rows of each label from them, asks `frontier_of`, and draws m new rows of each
label. Of all attempts, those that promise and are broken by the new rows may be at most 1 - confidence. Of those that
promise, confidence is to be kept; that is asked for only where at least half of the attempts promise: a true mean
exactly at the limit keeps half of its rare promises, whatever the formula.

Bounds are one-sided: a cell fails where a count above the 99.9 % quantile of the binomial distribution is seen, of so
many attempts (or promises) and the largest rate that is allowed. Cells that fail are expected to, with their numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any, Literal

import numpy as np
import pytest
from scipy.stats import binom

from engine.core.rng import generator
from engine.metrics.promise import frontier_of, threshold
from engine.metrics.requirements import Kind, Requirement
from engine.problem.crossfit_settings import STEPS

ATTEMPTS = {"fixed": 1000, "taken": 500}
CONFIDENCES = {"fixed": (0.8, 0.95, 0.99), "taken": (0.8, 0.95)}
UNLIKELY = 0.001

How = Literal["fixed", "taken"]
Truth = Literal["around", "under", "far"]


@dataclass(frozen=True)
class Family:
    """What is required of each label, and what rows do."""

    kind: Kind
    limit: float
    right: float = 0.8  # share of the rows that are right before
    churn: float = 0.0  # shares that become right, and wrong, beside what the true mean takes
    # of several all rows together must not lose either, and label 0 gains what the others lose at their limits
    labels: int = 1

    @property
    def requirements(self) -> tuple[Requirement, ...]:
        """As `frontier_of` takes them; rows that are wrong are taken for the class behind the labels."""
        predicted = self.labels if self.kind == "max_rate" else None
        each = [Requirement(self.kind, self.limit, (label,), predicted, "") for label in range(self.labels)]
        return tuple(each) if self.labels == 1 else (Requirement("max_drop", 0.0, None, None, ""), *each)

    @property
    def changes(self) -> np.ndarray:
        """(L,) change of the share of each label that is right, right after less right before, at the limits."""
        start = {"max_drop": 0.0, "min_gain": 0.0, "min_accuracy": self.right, "max_rate": self.right - 1}[self.kind]
        found = np.full(self.labels, threshold(self.requirements[-1]) - start)
        found[0] -= found.sum() if self.labels > 1 else 0.0
        return found

    def rates(self, changes: np.ndarray) -> np.ndarray:
        """(2, L) shares of rows that become right, and wrong, for changes (L,), as far as there are rows for them."""
        changes = np.clip(changes, self.churn - self.right, 1 - self.right - self.churn)
        return self.churn + np.maximum(np.stack([changes, -changes]), 0)

    def error(self, rows: int) -> np.ndarray:
        """(L,) standard error of the value that is limited, at the limits, on so many rows."""
        changes = self.changes
        if self.kind in ("max_drop", "min_gain"):
            return np.sqrt((self.rates(changes).sum(axis=0) - changes**2) / rows)
        after = self.right + changes
        return np.sqrt(after * (1 - after) / rows)


FAMILIES = {
    "drop": Family("max_drop", 0.03),
    "churn": Family("max_drop", 0.03, churn=0.05),
    "gain": Family("min_gain", 0.04, right=0.6, churn=0.02),
    "accuracy": Family("min_accuracy", 0.8),
    "rate": Family("max_rate", 0.1, right=1.0),
    "rare": Family("max_rate", 0.03, right=1.0),
    "joint": Family("max_drop", 0.03, churn=0.05, labels=3),
}


@dataclass(frozen=True)
class Cell:
    """Attempts of one kind."""

    how: How  # the whole repair is judged, or the largest step that promises is taken
    family: str  # of `FAMILIES`
    # the true means lie by about one standard error around the limits; one standard error of the new rows under them,
    # where new rows break most that is promised; or two to five away, on the better side in seven attempts of ten
    truth: Truth
    rows: int  # n, of each label
    new: int  # m, of each label

    def __str__(self) -> str:
        return f"{self.how}-{self.family}-{self.truth}-{self.rows}-{self.new}"


@dataclass(frozen=True)
class Counts:
    """Attempts that promise, and those of them that new rows break."""

    attempts: int
    promised: int
    broken: int


@cache
def simulated(cell: Cell) -> dict[float, Counts]:
    """What comes of the attempts of a cell, at each confidence."""
    family, asked = FAMILIES[cell.family], CONFIDENCES[cell.how]
    rng = generator(0, str(cell), -1, "calibration")
    promised, broken = dict.fromkeys(asked, 0), dict.fromkeys(asked, 0)
    for _ in range(ATTEMPTS[cell.how]):
        rates = true_rates(family, cell, rng)
        for confidence, step in steps_promised(family, rates, cell, rng).items():
            promised[confidence] += 1
            broken[confidence] += not kept(family, *rows_of(family, rates, (step,), cell.new, rng))
    return {each: Counts(ATTEMPTS[cell.how], promised[each], broken[each]) for each in asked}


def steps_promised(family: Family, rates: np.ndarray, cell: Cell, rng: np.random.Generator) -> dict[float, float]:
    """The step that `frontier_of` promises from drawn rows, by confidence, where it promises one."""
    steps = (1.0, 0.0) if cell.how == "fixed" else STEPS
    labels = np.repeat(np.arange(family.labels), cell.rows)
    before, after = rows_of(family, rates, steps, cell.rows, rng)
    found = {}
    for confidence in CONFIDENCES[cell.how]:
        frontier = frontier_of(
            family.requirements,
            labels,
            before,
            after,
            steps=steps,
            confidence=confidence,
            new_rows=cell.new,
            classes=family.labels + 1,
            fixed_step=cell.how == "fixed",
        )
        if cell.how == "fixed":  # the chance does not depend on the confidence: one call serves them all
            return {each: 1.0 for each in CONFIDENCES[cell.how] if frontier.point.chance >= each}
        if frontier.promised:
            found[confidence] = frontier.point.step
    return found


def true_rates(family: Family, cell: Cell, rng: np.random.Generator) -> np.ndarray:
    """(2, L) shares of the rows of each label that become right, and wrong, under the whole repair."""
    judged, new = family.error(cell.rows), family.error(cell.new)
    if cell.truth == "under":
        return family.rates(family.changes - new)
    both = np.sqrt(judged**2 + new**2)
    if cell.truth == "around":
        return family.rates(family.changes + both * rng.normal(size=family.labels))
    side = 1 if rng.random() < 0.7 else -1
    return family.rates(family.changes + side * both * rng.uniform(2, 5, family.labels))


def rows_of(
    family: Family, rates: np.ndarray, steps: Sequence[float], count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Classes of `count` rows of each label before, (L count,), and at each step, (T, L count).

    At step t a row that the whole repair gets right has become so with chance t, and one that it breaks with t^2.
    """
    labels = np.arange(family.labels)[:, None]
    chance, moment = rng.random((2, family.labels, count))
    before = chance < family.right
    breaks = chance < rates[1][:, None]
    fixes = chance > 1 - rates[0][:, None]
    after = [before & ~(breaks & (moment < step**2)) | (fixes & (moment < step)) for step in steps]
    return (
        np.where(before, labels, family.labels).ravel(),
        np.stack([np.where(right, labels, family.labels).ravel() for right in after]),
    )


def kept(family: Family, before: np.ndarray, after: np.ndarray) -> bool:
    """Whether new rows keep everything, counted by hand."""
    was = (before.reshape(family.labels, -1) < family.labels).sum(axis=1)
    right = (after.reshape(family.labels, -1) < family.labels).sum(axis=1)
    count = after.size // family.labels
    change = Fraction(str(family.limit)) * count
    bound = {
        "max_drop": was - change,
        "min_gain": was + change,
        "min_accuracy": change,
        "max_rate": count - change,
    }[family.kind]
    return bool((right >= bound).all()) and (family.labels == 1 or right.sum() >= was.sum())


def most(attempts: int, share: float) -> int:
    """The largest count that is not unlikely where at most this share is allowed."""
    return int(binom.ppf(1 - UNLIKELY, attempts, share))


SIZES = ((60, 100), (60, 5000), (1000, 100), (1000, 5000))
CELLS = (
    *(Cell("fixed", family, "around", *sizes) for family in FAMILIES for sizes in SIZES),
    *(Cell("fixed", family, "under", rows, 5000) for family in FAMILIES for rows in (60, 1000)),
    *(Cell("fixed", family, "under", 100, 5000) for family in ("drop", "rare")),
    *(Cell("fixed", family, "far", *sizes) for family in FAMILIES for sizes in ((60, 5000), (1000, 100))),
    *(Cell("taken", "churn", "around", *sizes) for sizes in SIZES),
    *(Cell("taken", family, "under", rows, 5000) for family in ("churn", "gain") for rows in (60, 1000)),
    *(Cell("taken", "joint", truth, 200, 1000) for truth in ("around", "under")),
)

BROKEN = {
    ("fixed-drop-under-60-5000", 0.95): "11.1 % of attempts, at most 5 % allowed: none of 60 lost is taken for sure",
    ("fixed-rare-under-60-5000", 0.95): "11.3 % of attempts, at most 5 % allowed: none of 60 is taken for sure",
    ("fixed-drop-under-100-5000", 0.99): "2.6 % of attempts, at most 1 % allowed: none of 100 lost is taken for sure",
    ("fixed-rare-under-100-5000", 0.99): "2.6 % of attempts, at most 1 % allowed: none of 100 is taken for sure",
}
"""Cells where more is broken than the confidence allows, with what was measured: the normal distribution is no
approximation where next to no row counts against a repair."""

FEW = {
    ("fixed-drop-far-60-5000", 0.99),
    ("fixed-churn-far-60-5000", 0.99),
    ("fixed-gain-far-60-5000", 0.95),
    ("fixed-gain-far-60-5000", 0.99),
    ("fixed-gain-far-1000-100", 0.99),
    ("fixed-rare-far-60-5000", 0.99),
    ("fixed-joint-far-60-5000", 0.95),
    ("fixed-joint-far-60-5000", 0.99),
    ("fixed-joint-far-1000-100", 0.99),
    ("taken-churn-around-60-100", 0.95),
}
"""Of the cells where repairs are good, or smaller steps are, those where fewer than half of the attempts promise."""


def parameters(cells: Iterable[Cell]) -> list[Any]:
    """Each cell at each confidence."""
    found = []
    for cell in cells:
        for confidence in CONFIDENCES[cell.how]:
            reason = BROKEN.get((str(cell), confidence))
            marks = () if reason is None else (pytest.mark.xfail(strict=True, reason=reason),)
            found.append(pytest.param(cell, confidence, id=f"{cell}-{confidence}", marks=marks))
    return found


@pytest.mark.parametrize(("cell", "confidence"), parameters(CELLS))
def test_few_attempts_promise_what_new_rows_break(cell: Cell, confidence: float) -> None:
    counts = simulated(cell)[confidence]
    assert counts.broken <= most(counts.attempts, 1 - confidence)


GOOD = [cell for cell in CELLS if cell.truth == "far" or (cell.how == "taken" and cell.family != "gain")]


@pytest.mark.parametrize(
    ("cell", "confidence"), [each for each in parameters(GOOD) if (str(each.values[0]), each.values[1]) not in FEW]
)
def test_most_of_many_promises_are_kept(cell: Cell, confidence: float) -> None:
    counts = simulated(cell)[confidence]
    assert 2 * counts.promised >= counts.attempts, "or what is asked for here would not hold of any formula"
    assert counts.broken <= most(counts.promised, 1 - confidence)
