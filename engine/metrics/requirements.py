"""Requirements on a model: read from a TOML file, judged by counts, used to rank candidates.

The file is an array of tables, each about some rows and with one limit or more:

    confidence = 0.95        # may be left out: the chance that is asked of all that follows together
    [[require]]              # accuracy of one label, by class name or index
    label = "Shirt"
    min_accuracy = 0.75
    [[require]]              # loss of accuracy against the base model, here of all rows together
    max_drop = 0.01          # a share: 0.01 is one point
    [[require]]              # gain of accuracy against the base model
    label = "Shirt"
    min_gain = 0.06
    [[require]]              # of each label by itself, where a table that names the label does not say otherwise
    label = "*"
    max_drop = 0.03
    [[require]]              # share of the rows of one label that are predicted as another
    true = "Shirt"
    predicted = "T-shirt/top"
    max_rate = 0.1

A limit is met by a value equal to it: 9 rows of 10 have an accuracy of 0.9, and 1 of 3 one of 0.3333333333333333.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np

from engine.core.errors import InputError, reason
from engine.core.names import label_of
from engine.core.types import Int64
from engine.metrics.accuracy import Comparison, drop_interval, wilson_interval

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Kind = Literal["min_accuracy", "max_drop", "min_gain", "max_rate"]

_ACCURACY_KINDS: tuple[Kind, ...] = ("min_accuracy", "max_drop", "min_gain")
_PAIR_KEYS = ("true", "predicted", "max_rate")
_KEYS = ("label", *_ACCURACY_KINDS, *_PAIR_KEYS)
# What a table is about: one label, a (true, predicted) pair, each label by itself or, as None, all rows together.
_Subject = int | tuple[int, int] | Literal["*"] | None


@dataclass(frozen=True)
class Requirement:
    """One limit that a model has to keep.

    Attributes:
        kind: what is limited: the accuracy, its loss or its gain against the base model, or the rate of one confusion.
        limit: share, 0 to 1.
        labels: true labels whose rows are pooled, or None for all rows; one label for a max_rate.
        predicted: the wrong label of a max_rate, otherwise None.
        text: the requirement in words.
        wildcard: it comes from `label = "*"`, so it is left out where its label has no rows.
    """

    kind: Kind
    limit: float
    labels: tuple[int, ...] | None
    predicted: int | None
    text: str
    wildcard: bool = False

    @property
    def at_least(self) -> bool:
        """The limit is the smallest value that keeps it, not the largest."""
        return self.kind in ("min_accuracy", "min_gain")

    @property
    def relative(self) -> bool:
        """It cannot be judged without a base model."""
        return self.kind in ("max_drop", "min_gain")


@dataclass(frozen=True)
class Requirements:
    """What is asked of a model.

    Attributes:
        limits: each by itself, in the order stated.
        confidence: chance, 0.5 to below 1, with which all limits together are to hold on rows not measured, or None
            where none is stated.
    """

    limits: tuple[Requirement, ...]
    confidence: float | None


@dataclass(frozen=True)
class Verdict:
    """A requirement against what was measured; shares are 0 to 1.

    Attributes:
        requirement: what was judged.
        base: accuracy or rate of the base model.
        value: what the limit is held against: accuracy, loss or gain of accuracy, or rate.
        low: lower end of the 95 % interval of `value`; Wilson's, or for a loss or a gain that of `drop_interval`.
        high: its upper end.
        total: rows judged by.
        count_before: rows that the base model gets right, or for a max_rate takes for the wrong label.
        count_after: the same of the model.
        margin: how far `value` is on the good side of the limit; 0 or more exactly where it is met.
        met: whether the limit is kept.
    """

    requirement: Requirement
    base: float
    value: float
    low: float
    high: float
    total: int
    count_before: int
    count_after: int
    margin: float
    met: bool


def read_requirements(path: Path, classes: int, label_names: Sequence[str] | None) -> Requirements:
    """Read the requirements of a TOML file for data of `classes` classes, in the order of the file.

    Labels are class names, where the data has them, or indices, also as strings where no class is named so.
    `label = "*"` becomes one requirement per label, except where another table states the same limit for that
    label by itself: that one takes its place.

    Raises InputError for a file that is unreadable, not TOML or without [[require]], for unknown keys and labels,
    tables that are incomplete or mix the two forms, limits that are not numbers from 0 to 1, a limit stated twice for
    the same rows, and a confidence that is no number from 0.5 to below 1.
    """
    content = _content(path)
    confidence = content.get("confidence")
    # TOML tells whole numbers from others: 0 and 1 are none of the range.
    if "confidence" in content and not (isinstance(confidence, float) and 0.5 <= confidence < 1):
        raise InputError(f"{path} has confidence = {confidence!r}, expected a number from 0.5 to below 1")
    stated: dict[tuple[_Subject, Kind], tuple[int, float]] = {}
    for number, table in enumerate(_tables(path, content), start=1):
        where = f"{path}: [[require]] {number}"
        subject = _subject(table, where, classes, label_names)
        for kind in ("max_rate",) if isinstance(subject, tuple) else _ACCURACY_KINDS:
            if kind not in table:
                continue
            limit = table[kind]
            if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not 0 <= limit <= 1:
                raise InputError(f"{where} has {kind} = {limit!r}, expected a number from 0 to 1")
            if (subject, kind) in stated:
                first, other = stated[subject, kind]
                raise InputError(
                    f"{where} states {kind} of {_subject_text(subject, label_names)} as {limit}, [[require]] {first} "
                    f"as {other}, expected it once"
                )
            stated[subject, kind] = number, float(limit)
    requirements = []
    for (subject, kind), (_, limit) in stated.items():
        if isinstance(subject, str):
            others = [label for label in range(classes) if (label, kind) not in stated]
            requirements += [_about_labels(kind, limit, (label,), label_names, wildcard=True) for label in others]
        elif isinstance(subject, tuple):
            requirements.append(_about_pair(limit, subject, label_names))
        else:
            labels = None if subject is None else (subject,)
            requirements.append(_about_labels(kind, limit, labels, label_names))
    return Requirements(tuple(requirements), confidence)


def default_goals(labels: Sequence[int], label_names: Sequence[str] | None) -> tuple[Requirement, ...]:
    """What a repair aims at when nothing is required.

    All rows together lose at most one point, and the accuracy of `labels`, the labels under repair (at least one)
    pooled, comes as close to 1 as it can.
    """
    return (
        _about_labels("max_drop", 0.01, None, label_names),
        _about_labels("min_accuracy", 1.0, tuple(sorted(set(labels))), label_names),
    )


def default_promises(label_names: Sequence[str] | None, classes: int) -> Requirements:
    """What a repair that states a confidence keeps to when nothing is required.

    At a confidence of 0.95 all rows together lose at most one point, and each label with rows at most three.
    """
    labels = [_about_labels("max_drop", 0.03, (label,), label_names, wildcard=True) for label in range(classes)]
    return Requirements((_about_labels("max_drop", 0.01, None, label_names), *labels), 0.95)


def check_rows(requirements: Sequence[Requirement], totals: Int64, source: Path) -> None:
    """Raise InputError where the image set `source` with `totals` (C,) rows per label has no rows to judge by."""
    for requirement in requirements:
        rows = totals if requirement.wildcard else _pool(totals, requirement)
        if not rows.any():
            raise InputError(f'{source} has no rows to judge "{requirement.text}" by, expected at least one')


def with_rows(requirements: Sequence[Requirement], comparison: Comparison) -> list[Requirement]:
    """The requirements that a set has rows to judge."""
    return [requirement for requirement in requirements if _pool(comparison.totals, requirement).any()]


def check_requirements(requirements: Sequence[Requirement], comparison: Comparison) -> tuple[Verdict, ...]:
    """Judge a model in the order of `requirements`, leaving out those of `label = "*"` whose label has no rows.

    Raises ValueError where another requirement has no rows; `check_rows` says so in time.
    """
    return tuple(
        _verdict(requirement, comparison)
        for requirement in requirements
        if not requirement.wildcard or _pool(comparison.totals, requirement).any()
    )


def rank(verdicts: Sequence[Verdict], comparison: Comparison) -> tuple[int, float, int]:
    """Order of candidates; the bigger the better: requirements met, then the worst margin, then fewest rows broken."""
    met = sum(verdict.met for verdict in verdicts)
    return met, min(verdict.margin for verdict in verdicts), -int(comparison.broken.sum())


def _verdict(requirement: Requirement, comparison: Comparison) -> Verdict:
    total = int(_pool(comparison.totals, requirement).sum())
    if total == 0:
        raise ValueError(f"no rows to judge {requirement.text!r} by")
    before, after = _count(comparison.before, requirement), _count(comparison.after, requirement)
    if requirement.relative:
        broken = int(_pool(comparison.broken, requirement).sum())
        fixed = int(_pool(comparison.fixed, requirement).sum())
        if requirement.at_least:  # a gain is the loss from the model to its base
            exact = Fraction(after - before, total)
            low, high = drop_interval(fixed, broken, total)
        else:
            exact = Fraction(before - after, total)
            low, high = drop_interval(broken, fixed, total)
    else:
        exact = Fraction(after, total)
        low, high = wilson_interval(after, total)
    # Margins are exact, of the decimal that was written and not of the binary number nearest to it: 0.8 is 0.05 above
    # 0.75. But no double lies closer to 1/3 than 0.3333333333333333, so as a limit it is equal to that.
    value = float(exact)
    above = 0.0 if value == requirement.limit else float(exact - Fraction(str(requirement.limit)))
    margin = above if requirement.at_least else 0.0 - above
    return Verdict(
        requirement=requirement,
        base=before / total,
        value=value,
        low=low,
        high=high,
        total=total,
        count_before=before,
        count_after=after,
        margin=margin,
        met=margin >= 0,
    )


def _pool(per_label: Int64, requirement: Requirement) -> Int64:
    return per_label if requirement.labels is None else per_label[list(requirement.labels)]


def _count(confusion: Int64, requirement: Requirement) -> int:
    column = np.diagonal(confusion) if requirement.predicted is None else confusion[:, requirement.predicted]
    return int(_pool(column, requirement).sum())


def _content(path: Path) -> dict[str, Any]:
    """The file, once it is known to be TOML with no other keys than are read."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors begin with a byte-order mark
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}), expected a TOML file of requirements") from error
    except (ValueError, RecursionError) as error:  # TOML's own errors and those of UTF-8 are ValueErrors
        raise InputError(f"{path} is not TOML ({reason(error)}), expected [[require]] tables") from error
    for key in content:
        if key not in ("require", "confidence"):
            raise InputError(f"{path} has the unknown key {key!r}, expected only [[require]] tables and confidence")
    return content


def _tables(path: Path, content: dict[str, Any]) -> list[dict[str, Any]]:
    tables = content.get("require", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise InputError(f"{path} has require as something else than tables, expected [[require]]")
    if not tables:
        raise InputError(f"{path} has no [[require]] table, expected at least one")
    return tables


def _subject(table: dict[str, Any], where: str, classes: int, names: Sequence[str] | None) -> _Subject:
    """What the table is about, once it is known to be complete and of one form."""
    for key in table:
        if key == "confidence":  # TOML takes a key below a table as one of it
            raise InputError(f"{where} has confidence, expected it above the first [[require]]")
        if key not in _KEYS:
            raise InputError(f"{where} has the unknown key {key!r}, expected {', '.join(_KEYS)}")
    pair = [key for key in _PAIR_KEYS if key in table]
    other = [key for key in ("label", *_ACCURACY_KINDS) if key in table]
    if pair and other:
        raise InputError(
            f"{where} has {other[0]} beside {pair[0]}, expected either {_any_of(_ACCURACY_KINDS)}, with or without "
            "label, or true, predicted and max_rate"
        )
    if pair:
        if len(pair) < len(_PAIR_KEYS):
            missing = " and ".join(key for key in _PAIR_KEYS if key not in table)
            raise InputError(f"{where} has {' and '.join(pair)} without {missing}, expected all three")
        true, predicted = (
            label_of(table[key], classes, names, f"{where} has {key} = {table[key]!r}") for key in ("true", "predicted")
        )
        if true == predicted:
            raise InputError(f"{where} has true and predicted both {_label_list((true,), names)}, expected two labels")
        return true, predicted
    if other in ([], ["label"]):
        raise InputError(f"{where} states no limit, expected {_any_of((*_ACCURACY_KINDS, 'max_rate'))}")
    if "label" not in table:
        return None
    if table["label"] == "*":
        return "*"
    return label_of(table["label"], classes, names, f"{where} has label = {table['label']!r}")


def _about_labels(
    kind: Kind, limit: float, labels: tuple[int, ...] | None, names: Sequence[str] | None, *, wildcard: bool = False
) -> Requirement:
    who = _subject_text(None, names) if labels is None else _label_list(labels, names)
    points = f"{_percent(limit)} {'point' if limit == 0.01 else 'points'}"
    if kind == "min_accuracy":
        text = f"accuracy of {who} at least {_percent(limit)} %"
    elif kind == "min_gain":
        text = f"gain of {who} at least {points}"
    else:
        text = f"drop of {who} at most {points}"
    return Requirement(kind, limit, labels, None, text, wildcard)


def _about_pair(limit: float, pair: tuple[int, int], names: Sequence[str] | None) -> Requirement:
    true, predicted = pair
    text = f"{_subject_text(pair, names)} in at most {_percent(limit)} % of its rows"
    return Requirement("max_rate", limit, (true,), predicted, text)


def _subject_text(subject: _Subject, names: Sequence[str] | None) -> str:
    if subject is None:
        return "all labels together"
    if isinstance(subject, tuple):
        return " taken for ".join(_label_list((label,), names) for label in subject)
    return 'each label ("*")' if isinstance(subject, str) else _label_list((subject,), names)


def _label_list(labels: Sequence[int], names: Sequence[str] | None) -> str:
    texts = [f"label {label}" if names is None else f"{label} {names[label]}" for label in labels]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]} together"


def _any_of(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _percent(share: float) -> str:
    """All digits of 100 times the decimal: 0.07 gives 7."""
    return f"{(Decimal(str(share)) * 100).normalize():f}"
