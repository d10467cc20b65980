"""The score by which DistrRep merges: precision of labels less what is wrong with them, from counts of rows.

With n[c] rows of label c, E[c] of them wrong, and E[t,p] rows of t that are predicted as p,

    S = sum over c in general of [wp[c] (1 - E[c]/n[c]) - 0.5 wm[c] E[c]/n[c]]
        - 0.5 sum over (t,p) in targets of wm[t,p] E[t,p]/n[t]

wp and wm are divided by their sums; a label that wm does not name has 0 there. This is what eAI-Repair-Toolkit 1.1.0's
DRWeightMerge computes, facts read from its source; its settings are a JSON file:

    {"target_misclassifications": {"Shirt": ["Coat"]},          general: labels that count, also those to keep
     "general_misclassifications": ["Shirt", "Coat"],
     "weights_precisions": {"Shirt": 1.0, "Coat": 1.0},
     "weights_misclassifications": {"Shirt,Coat": 2.0, "Shirt": 1.0}}
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.core.errors import InputError, reason
from engine.core.names import in_words, label_of
from engine.core.types import Float64, Int64

KEYS = ("target_misclassifications", "general_misclassifications", "weights_precisions", "weights_misclassifications")

Pair = tuple[int, int]


@dataclass(frozen=True)
class MergeScore:
    """What is counted, and how much; see the module. Weights of each kind have the sum 1."""

    general: tuple[int, ...]  # labels whose precision counts
    targets: tuple[Pair, ...]  # (true, predicted) whose rate counts
    precision: Mapping[int, float]  # wp of each label in `general`
    wrong: Mapping[int, float]  # wm of labels
    confused: Mapping[Pair, float]  # wm of each pair in `targets`

    def scores(self, labels: Int64, predicted: Int64) -> Float64:
        """S (M,) of classes (M, n) predicted for rows of true classes (n,); each label that counts has rows."""
        found = np.zeros(len(predicted))
        for label in self.general:
            rate = (predicted[:, labels == label] != label).mean(axis=1)
            found += self.precision[label] * (1.0 - rate) - 0.5 * self.wrong.get(label, 0.0) * rate
        for true, other in self.targets:
            rate = (predicted[:, labels == true] == other).mean(axis=1)
            found -= 0.5 * self.confused[true, other] * rate
        return found

    def check_rows(self, totals: Int64, source: Path) -> None:
        """Raise InputError where an image set with `totals` (C,) rows per label has none of one that counts."""
        for label in (*self.general, *(true for true, _ in self.targets)):
            if not totals[label]:
                raise InputError(f"{source} has no rows of label {label}, which the settings count, expected some")


def merge_score(
    general: Sequence[int],
    targets: Sequence[Pair],
    precision: Mapping[int, float],
    wrong: Mapping[int | Pair, float],
) -> MergeScore:
    """A score with weights of any sum above 0; `precision` is wp and `wrong` wm, of labels and of pairs."""
    wp = {label: weight / sum(precision.values()) for label, weight in precision.items()}
    wm = {key: weight / sum(wrong.values()) for key, weight in wrong.items()}
    return MergeScore(
        tuple(general),
        tuple(targets),
        {label: wp[label] for label in general},
        {key: weight for key, weight in wm.items() if isinstance(key, int)},
        {pair: wm[pair] for pair in targets},
    )


def read_merge_settings(path: Path, classes: int, names: Sequence[str] | None) -> MergeScore:
    """Read the settings of DistrRep for data of `classes` labels, which may have names."""
    tables = _tables(path)

    def label(value: object, key: str) -> int:
        return label_of(value, classes, names, f"{path}: {key} has {in_words(str(value))!r}")

    key = KEYS[0]
    targets: list[Pair] = []
    for true, others in tables[key].items():
        if not isinstance(others, list):
            raise InputError(f"{path}: {key} of {in_words(true)} is {type(others).__name__}, expected a list of labels")
        targets += [(label(true, key), label(other, key)) for other in others]
    general = [label(value, KEYS[1]) for value in tables[KEYS[1]]]
    stated: list[tuple[Sequence[int | Pair], str]] = [(targets, KEYS[0]), (general, KEYS[1])]
    for found, key in stated:
        if twice := [one for number, one in enumerate(found) if one in found[:number]]:
            raise InputError(f"{path}: {key} has {_text(twice[0])} twice, expected each once")
    if same := [true for true, other in targets if true == other]:
        raise InputError(f"{path}: {KEYS[0]} has label {same[0]} predicted as itself, expected another label")
    if not general and not targets:
        raise InputError(f"{path}: names no label in {KEYS[0]} or {KEYS[1]}, expected at least one")
    precision = _weights(path, KEYS[2], [(label(name, KEYS[2]), one) for name, one in tables[KEYS[2]].items()])
    wrong = _weights(path, KEYS[3], [(_subject(name, label, KEYS[3]), one) for name, one in tables[KEYS[3]].items()])
    needed: list[tuple[Sequence[int | Pair], dict[Any, float], str]]
    needed = [(general, precision, KEYS[2]), (targets, wrong, KEYS[3])]
    for wanted, table, key in needed:
        if missing := [one for one in wanted if one not in table]:
            raise InputError(f"{path}: {key} has no weight of {_text(missing[0])}, expected one")
    return merge_score(general, targets, precision, wrong)


def _tables(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read as JSON ({reason(error)}), expected the settings of a merge"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {type(content).__name__}, expected a table of {', '.join(KEYS)}")
    for key in KEYS:
        kind = list if key == KEYS[1] else dict
        if not isinstance(content.get(key), kind):
            found = f"has {key} = {type(content[key]).__name__}" if key in content else f"has no {key}"
            raise InputError(f"{path} {found}, expected a {'list of labels' if kind is list else 'table'}")
    return content


def _subject(name: str, label: Any, key: str) -> int | Pair:
    """The label of a name, or the pair of `true,predicted`; a name may have a comma itself."""
    true, comma, predicted = name.partition(",")
    try:
        return int(label(name, key))
    except InputError:
        if not comma:
            raise
    return int(label(true.strip(), key)), int(label(predicted.strip(), key))


def _weights(path: Path, key: str, weights: Sequence[tuple[Any, Any]]) -> dict[Any, float]:
    found: dict[Any, float] = {}
    for subject, weight in weights:
        number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
        if not (number and 0 <= weight <= sys.float_info.max):  # whole numbers may be larger, and no float
            shown = in_words(repr(weight))
            raise InputError(f"{path}: {key} of {_text(subject)} is {shown}, expected a number from 0 to 1e308")
        if subject in found:
            raise InputError(f"{path}: {key} has {_text(subject)} twice, expected each once")
        found[subject] = float(weight)
    total = sum(found.values())
    if not 0 < total < math.inf:
        wanted = "less" if total else "more"
        raise InputError(f"{path}: {key} has the sum {total:g}, expected {wanted}, as weights are divided by it")
    return found


def _text(subject: int | Pair) -> str:
    return f"label {subject}" if isinstance(subject, int) else f"label {subject[0]} predicted as {subject[1]}"
