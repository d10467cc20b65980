"""The tables of a run: each is a dataclass of its row, whose fields say type, unit and meaning of the columns."""

# ruff: noqa: RUF009 - `column` makes a field, also of an Int32

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import pyarrow as pa

Int32 = int
Float32 = float

# Types of columns by those of fields; None is null.
_KINDS = {
    "str": pa.string(),
    "bool": pa.bool_(),
    "int": pa.int64(),
    "Int32": pa.int32(),
    "float": pa.float64(),
    "Float32": pa.float32(),
    "Sequence[int]": pa.list_(pa.int64()),
    "Sequence[Int32]": pa.list_(pa.int32()),
}


def column(text: str, unit: str = "", *, key: bool = False, differs: bool = False, **default: Any) -> Any:
    """A field of a row that is a column of its table; the unit of shares is "1".

    Tables are sorted by their `key` columns; a column that `differs` between equal runs tells time or place.
    """
    return field(metadata={"text": text, "unit": unit, "key": key, "differs": differs}, **default)


@dataclass(frozen=True, kw_only=True)
class Row:
    @property
    def cells(self) -> dict[str, Any]:
        return vars(self)


_JOB = column("name of the search; `stepN`, `batch` or `crossfit` for what a run made of its searches", key=True)


@dataclass(frozen=True, kw_only=True)
class SwarmRow(Row):
    """An iteration of a search."""

    job: str = _JOB
    iteration: Int32 = column("from 1", "iterations", key=True)
    best: float = column("best fitness so far")
    mean: float = column("mean fitness of this iteration's particles")
    patched: int = column("negatives the best candidate gets right", "rows")
    intact: int = column("positives the best candidate gets right", "rows")
    loss_neg: float = column("mean loss of the best candidate over negatives", "nats")
    loss_pos: float = column("mean loss of the best candidate over positives", "nats")
    evaluations: int = column("fitness evaluations so far", "candidates")
    seconds: float = column("time of this iteration", "s", differs=True)


@dataclass(frozen=True, kw_only=True)
class LabelRow(Row):
    """A label in a set of rows, by a model."""

    job: str = _JOB
    stage: str = column(
        "base: the model as it was; repaired: a saved model, loaded again; candidate: a job's best patch on cached "
        "features; step: what a round or iteration of a batch ended with, on cached features, or the step that "
        "CrossFit took",
        key=True,
    )
    split: str = column(
        "negative, positive, validation or test: the rows measured; out of fold: repair rows, each under tunings "
        "that did not see it",
        key=True,
    )
    label: Int32 = column("true class", key=True)
    total: int = column("rows of the label", "rows")
    correct: int = column("rows the model gets right", "rows")
    accuracy: float = column("correct / total", "1")
    repaired: int = column("rows the base model gets wrong and this one right", "rows")
    broken: int = column("rows the base model gets right and this one wrong", "rows")


@dataclass(frozen=True, kw_only=True)
class JobRow(Row):
    """A search; defaults are what stands where nothing was searched."""

    job: str = column("name of the search; `stepN` or `batch` for what a batch made of its searches", key=True)
    step: Int32 = column("round of mode rounds, iteration of mode chain, else 1; from 1")
    chunk: str = column("folder of the repair rows", differs=True)
    data: str = column("SHA-256 of the search rows and weights; empty where nothing was searched", default="")
    label: Int32 = column("true label under repair, -1 for several")
    seed: int = column("seed of the search")
    positive_weight: float | None = column("worth of all positives together", "negatives", default=None)
    weights: int = column("localised weights", "weights", default=0)
    negatives: int = column("negative rows searched on", "rows", default=0)
    positives: int = column("positive rows searched on", "rows", default=0)
    iterations: Int32 = column("iterations run", "iterations", default=0)
    fitness: float | None = column("best fitness on the search rows", default=None)
    start_fitness: float | None = column("fitness of the model as it is, or of the mean of the recipes", default=None)
    patched: int = column("negatives the search believes repaired", "rows", default=0)
    intact: int = column("positives the search believes intact", "rows", default=0)
    stop: str = column("solved, no gain or iterations; empty while running", default="")
    state: str = column("running, done, skipped (nothing to repair) or failed")
    note: str = column("why it was skipped or failed; empty otherwise", default="")
    chosen: bool = column("a patch of this job is in the model that its step ended with", default=False)
    where: str = column("process, worker or tiles", default="", differs=True)
    worker: str = column("host and process that ran the end of it", default="", differs=True)
    host: str = column("host that ran the end of it", default="", differs=True)
    redispatched: int = column("parts that ran again because a worker died", "calls", default=0, differs=True)
    ended: float = column("time of its end, after the start of the run", "s", default=0.0, differs=True)
    seconds: float = column("time in iterations", "s", default=0.0, differs=True)


@dataclass(frozen=True, kw_only=True)
class PatchRow(Row):
    """A weight of a patch."""

    job: str = _JOB
    rank: Int32 = column("0 is the best patch of the job by its own fitness", key=True)
    fitness: float | None = column("of this patch on the search rows; null for the saved model's")
    position: Int32 = column("of the weight in its patch, from 0", key=True)
    weight: str = column("path of the weight, <layer>/<variable>")
    flat_index: int = column("position in the flattened weight, C order")
    index: Sequence[int] = column("position in the weight; for a kernel the i and j of weights.csv")
    old: Float32 = column("value the patch was made against")
    new: Float32 = column("value after repair")


@dataclass(frozen=True, kw_only=True)
class _SplitRow(Row):
    """The set of rows that a verdict is about."""

    split: str = column("validation (it chose: optimistic) or test", key=True)


@dataclass(frozen=True, kw_only=True)
class RequirementRow(Row):
    """What a row about a requirement says of it."""

    requirement: Int32 = column("number of the requirement, from 0, in the order judged", key=True)
    text: str = column("the requirement in words")
    kind: str = column("min_accuracy, max_drop, min_gain or max_rate")
    label: Int32 = column("true class, -1 for all rows together")
    predicted: Int32 = column("predicted class of a max_rate, else -1")
    limit: float = column("what is required", "1")


@dataclass(frozen=True, kw_only=True)
class VerdictRow(RequirementRow, _SplitRow):
    """A requirement, judged on a set of rows."""

    base: float = column("accuracy, or rate of the confusion, of the base model", "1")
    value: float = column("accuracy, drop, gain or rate of the repaired model", "1")
    low: float = column("lower end of the 95 % confidence interval of the value", "1")
    high: float = column("upper end", "1")
    total: int = column("rows judged", "rows")
    count_before: int = column("rows the base model gets right, or confuses", "rows")
    count_after: int = column("rows the repaired model gets right, or confuses", "rows")
    margin: float = column("distance to the limit, negative where it is not met", "1")
    met: bool = column("the value keeps to the limit")


@dataclass(frozen=True, kw_only=True)
class TuningRow(Row):
    """A tuning of CrossFit."""

    recipe: str = column("as --recipes takes it", key=True)
    fold: Int32 = column("that the tuning did not see, from 0", key=True)
    class_weight: float = column("of rows of a label under repair")
    strength: float = column("of the anchor to the model as it is")
    anchor: str = column("kl or focal")
    rate: float = column("of Adam")
    epochs: Int32 = column("passes over the rows", "epochs")
    rows: int = column("tuned on", "rows")
    weights: int = column("tuned", "weights")
    change: float = column("root of the mean square of the changes of all weights")
    where: str = column("process, worker, or checkpoint: of an earlier command", differs=True)
    worker: str = column("host and process that ran it", differs=True)
    seconds: float = column("of the tunings that ran together", "s", differs=True)


@dataclass(frozen=True, kw_only=True)
class MixtureRow(Row):
    """A coefficient of the mixture of CrossFit."""

    position: Int32 = column("in the candidates of the search, from 0", key=True)
    kind: str = column("recipe or offset")
    name: str = column("the recipe; empty of an offset")
    label: Int32 = column("of an offset, else -1")
    found: float = column("coefficient, or offset of the logit, of the search")
    taken: float = column("the same times the step: what is in the model")


@dataclass(frozen=True, kw_only=True)
class FrontierRow(Row):
    """A step of CrossFit between the base model and the mixture."""

    step: float = column("0: the model as it is; 1: the mixture as it was searched", "1", key=True)
    chance: float = column("that new rows keep all requirements", "1")
    met: Int32 = column("requirements that the rows at hand keep", "requirements")
    gain: float = column("of the labels under repair, mean change of accuracy", "1")
    all: float = column("change of the accuracy of all rows", "1")
    worst: float | None = column("change of the other label that loses most; null without others", "1")
    worst_label: Int32 = column("that label; -1 without others")
    fixed: int = column("rows right only after", "rows")
    broken: int = column("rows right only before", "rows")
    enough: int | None = column("rows of each label from which it could be promised; null: no number", "rows")
    taken: bool = column("the step of the saved model")


@dataclass(frozen=True, kw_only=True)
class PromiseRow(RequirementRow):
    """What the step that CrossFit took promises of a requirement."""

    value: float = column("on rows that no tuning saw: accuracy, drop, gain or rate", "1")
    low: float = column("lower end of where it lies on new rows, with 95 % chance", "1")
    high: float = column("upper end", "1")
    rows: int = column("counted on", "rows")
    new_rows: int = column("that the chance is about", "rows")
    met: bool = column("the value keeps to the limit")
    chance: float = column("that new rows keep the requirement", "1")
    promised: bool = column("the chance of all requirements together reaches the confidence")
    enough: int | None = column("rows of each label from which it would; null where no number would", "rows")


@dataclass(frozen=True, kw_only=True)
class OutcomeRow(Row):
    """A reading of a repair by a method; None is what was not measured."""

    method: str = column("as --method takes it", key=True)
    draw: Int32 = column("of the repair rows, from 0", key=True)
    reading: str = column(
        "found: what the method comes to where nobody chooses; chosen: by its own promise, or on validation rows, "
        "where the model as it is stands for election too; failed: it could not run",
        key=True,
    )
    offer: str | None = column("which of its offers; `nothing` for the model as it is", default=None)
    note: str | None = column("why it failed, or what else is to be said", default=None)
    seed: int = column("of everything random in the repair")
    rows: int = column("that it was made from", "rows")
    weights: int | None = column("whose values changed", "weights", default=None)
    gain: float | None = column("change of the accuracy of all labels under repair, on test rows", "1", default=None)
    all: float | None = column("change of the accuracy of all test rows", "1", default=None)
    worst: float | None = column("change of the other label that loses most; null without others", "1", default=None)
    worst_label: Int32 | None = column("that label; -1 without others", default=None)
    fixed: int | None = column("test rows right only after", "rows", default=None)
    broken: int | None = column("test rows right only before", "rows", default=None)
    chance: float | None = column(
        "that new rows keep all requirements; null where no row could judge", "1", default=None
    )
    promised: bool | None = column("the chance reaches the confidence", default=None)
    kept: bool | None = column("test rows keep all requirements", default=None)
    own: float | None = column("fitness of the model as it is by the objective of the method; null without")
    best: float | None = column("fitness of what was found by the same")
    where: str = column("process or worker", differs=True)
    worker: str = column("host and process that ran it", differs=True)
    seconds: float = column("of the method, without judging", "s", differs=True)
    cpu: float = column("processor time that this took, in all threads", "s", differs=True)
    ended: float = column("since the run began, without pauses between commands", "s", differs=True)
    after: Sequence[Int32] | None = column("classes that the repaired model predicts for the test rows", default=None)


@dataclass(frozen=True, kw_only=True)
class PredictionRow(Row):
    """A row of an image set, before and after the repair."""

    split: str = column("validation or test", key=True)
    row: int = column("row of the image set", key=True)
    label: Int32 = column("true class")
    before: Int32 = column("class the base model predicts")
    after: Int32 = column(
        "class the saved repaired model predicts, loaded again; of a comparison `before` once more, as its repairs "
        "have theirs in `outcomes`"
    )


@dataclass(frozen=True, kw_only=True)
class EvaluationRow(Row):
    """A run of `evaluate`, without its rates."""

    setting: str = column("what was swept, as its folder is called; empty where nothing was")
    run: Int32 = column("number of the run, from 0")
    seed: int = column("seed of its search")
    label: Int32 = column("true label under repair, -1 for several")
    num_grad: int | None = column("size of the pool of localisation", "weights", default=None)
    weights: int | None = column("localised weights", "weights", default=None)
    positive_weight: float | None = column("worth of all positives together", "negatives", default=None)
    iterations: Int32 | None = column("iterations run", "iterations", default=None)
    fitness: float | None = column("best fitness on the search rows", default=None)
    stop: str | None = column("solved, no gain or iterations", default=None)


@dataclass(frozen=True, kw_only=True)
class MethodEvaluationRow(Row):
    """What `evaluate` says more of a run by another method than Arachne."""

    method: str = column("as --method takes it")
    offer: str | None = column(
        "which of its offers; `nothing` for the model as it is; null where it failed", default=None
    )
    changed: int | None = column("whose values changed", "weights", default=None)
    chance: float | None = column(
        "that new rows keep all requirements; null where no row could judge", "1", default=None
    )
    promised: bool | None = column("the chance reaches the confidence", default=None)
    failed: bool = column("it could not run, and has no rates")
    note: str = column("why it failed, or what else is to be said")


def _columns(row: type[Row]) -> list[pa.Field]:
    return [
        _field(each.name, str(each.type).removesuffix(" | None"), each.metadata["text"], each.metadata["unit"])
        for each in fields(row)
    ]


def _field(name: str, kind: str, text: str, unit: str) -> pa.Field:
    return pa.field(name, _KINDS[kind], metadata={"description": text} | ({"unit": unit} if unit else {}))


ROWS: dict[str, type[Row]] = {
    "swarm": SwarmRow,
    "labels": LabelRow,
    "jobs": JobRow,
    "patches": PatchRow,
    "verdicts": VerdictRow,
    "tunings": TuningRow,
    "mixture": MixtureRow,
    "frontier": FrontierRow,
    "promises": PromiseRow,
    "outcomes": OutcomeRow,
    "predictions": PredictionRow,
}

OF_METHODS = frozenset({"tunings", "mixture", "frontier", "promises", "outcomes"})
"""Tables that only some methods write."""

# Columns carry their description, and their unit where they have one, as metadata.
SCHEMAS: dict[str, pa.Schema] = {name: pa.schema(_columns(row)) for name, row in ROWS.items()}

KEYS = {name: [each.name for each in fields(row) if each.metadata["key"]] for name, row in ROWS.items()}

VOLATILE = frozenset(each.name for row in ROWS.values() for each in fields(row) if each.metadata["differs"])
"""Columns in which two equal runs may differ: time and place."""

_ROWS_MEASURED = {
    "search": ("negative inputs", "positive inputs"),
    "validation": ("rows of the label that the base model gets wrong", "rows that it gets right"),
    "test": ("rows of the label that the base model gets wrong", "rows that it gets right"),
}


def _rates(split: str, wrong: str, right: str) -> list[pa.Field]:
    return [
        _field(f"{split}_wrong", "int", wrong, "rows"),
        _field(f"{split}_repaired", "int", "of these, rows that the repaired model gets right", "rows"),
        _field(f"{split}_right", "int", right, "rows"),
        _field(f"{split}_broken", "int", "of these, rows that the repaired model gets wrong", "rows"),
        _field(f"{split}_rr", "float", "repair rate: repaired / wrong", "%"),
        _field(f"{split}_br", "float", "break rate: broken / right", "%"),
    ]


EVALUATION = pa.schema(
    _columns(EvaluationRow) + [each for split, rows in _ROWS_MEASURED.items() for each in _rates(split, *rows)]
)
"""The table of `evaluate`, one file `evaluate.arrow` of its own: a row per setting and run, in this order.

Nothing depends on where and when it ran. Where there were no such rows, columns are null.
"""

EVALUATION_BY_METHOD = pa.schema([*EVALUATION, *_columns(MethodEvaluationRow)])
"""The same for other methods than Arachne: columns of its searches are null, `fitness` is by their own objectives."""
