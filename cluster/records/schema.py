"""The tables of a run: columns with their types, descriptions and units."""

from __future__ import annotations

from dataclasses import fields

import pyarrow as pa

from cluster.records.jobs import JobRow


def _field(name: str, kind: pa.DataType, text: str, unit: str = "") -> pa.Field:
    metadata = {"description": text} | ({"unit": unit} if unit else {})
    return pa.field(name, kind, metadata=metadata)


JOB = _field(
    "job", pa.string(), "name of the search; `stepN`, `batch` or `crossfit` for what a run made of its searches"
)

_REQUIREMENT = [
    _field("requirement", pa.int32(), "number of the requirement, from 0, in the order judged"),
    _field("text", pa.string(), "the requirement in words"),
    _field("kind", pa.string(), "min_accuracy, max_drop, min_gain or max_rate"),
    _field("label", pa.int32(), "true class, -1 for all rows together"),
    _field("predicted", pa.int32(), "predicted class of a max_rate, else -1"),
    _field("limit", pa.float64(), "what is required", "1"),
]
"""What a row about a requirement says of it."""

SCHEMAS: dict[str, pa.Schema] = {
    "swarm": pa.schema(
        [
            JOB,
            _field("iteration", pa.int32(), "from 1", "iterations"),
            _field("best", pa.float64(), "best fitness so far"),
            _field("mean", pa.float64(), "mean fitness of this iteration's particles"),
            _field("patched", pa.int64(), "negatives the best candidate gets right", "rows"),
            _field("intact", pa.int64(), "positives the best candidate gets right", "rows"),
            _field("loss_neg", pa.float64(), "mean loss of the best candidate over negatives", "nats"),
            _field("loss_pos", pa.float64(), "mean loss of the best candidate over positives", "nats"),
            _field("evaluations", pa.int64(), "fitness evaluations so far", "candidates"),
            _field("seconds", pa.float64(), "time of this iteration", "s"),
        ]
    ),
    "labels": pa.schema(
        [
            JOB,
            _field(
                "stage",
                pa.string(),
                "base: the model as it was; repaired: a saved model, loaded again; candidate: a job's best patch on "
                "cached features; step: what a round or iteration of a batch ended with, on cached features, or the "
                "step that CrossFit took",
            ),
            _field(
                "split",
                pa.string(),
                "negative, positive, validation or test: the rows measured; out of fold: repair rows, each under "
                "tunings that did not see it",
            ),
            _field("label", pa.int32(), "true class"),
            _field("total", pa.int64(), "rows of the label", "rows"),
            _field("correct", pa.int64(), "rows the model gets right", "rows"),
            _field("accuracy", pa.float64(), "correct / total", "1"),
            _field("repaired", pa.int64(), "rows the base model gets wrong and this one right", "rows"),
            _field("broken", pa.int64(), "rows the base model gets right and this one wrong", "rows"),
        ]
    ),
    "jobs": pa.schema([_field(column.name, **column.metadata) for column in fields(JobRow)]),
    "patches": pa.schema(
        [
            JOB,
            _field("rank", pa.int32(), "0 is the best patch of the job by its own fitness"),
            _field("fitness", pa.float64(), "of this patch on the search rows; null for the saved model's"),
            _field("position", pa.int32(), "of the weight in its patch, from 0"),
            _field("weight", pa.string(), "path of the weight, <layer>/<variable>"),
            _field("flat_index", pa.int64(), "position in the flattened weight, C order"),
            _field("index", pa.list_(pa.int64()), "position in the weight; for a kernel the i and j of weights.csv"),
            _field("old", pa.float32(), "value the patch was made against"),
            _field("new", pa.float32(), "value after repair"),
        ]
    ),
    "verdicts": pa.schema(
        [
            _field("split", pa.string(), "validation (it chose: optimistic) or test"),
            *_REQUIREMENT,
            _field("base", pa.float64(), "accuracy, or rate of the confusion, of the base model", "1"),
            _field("value", pa.float64(), "accuracy, drop, gain or rate of the repaired model", "1"),
            _field("low", pa.float64(), "lower end of the 95 % confidence interval of the value", "1"),
            _field("high", pa.float64(), "upper end", "1"),
            _field("total", pa.int64(), "rows judged", "rows"),
            _field("count_before", pa.int64(), "rows the base model gets right, or confuses", "rows"),
            _field("count_after", pa.int64(), "rows the repaired model gets right, or confuses", "rows"),
            _field("margin", pa.float64(), "distance to the limit, negative where it is not met", "1"),
            _field("met", pa.bool_(), "the value keeps to the limit"),
        ]
    ),
    "tunings": pa.schema(
        [
            _field("recipe", pa.string(), "as --recipes takes it"),
            _field("fold", pa.int32(), "that the tuning did not see, from 0"),
            _field("class_weight", pa.float64(), "of rows of a label under repair"),
            _field("strength", pa.float64(), "of the anchor to the model as it is"),
            _field("anchor", pa.string(), "kl or focal"),
            _field("rate", pa.float64(), "of Adam"),
            _field("epochs", pa.int32(), "passes over the rows", "epochs"),
            _field("rows", pa.int64(), "tuned on", "rows"),
            _field("weights", pa.int64(), "tuned", "weights"),
            _field("change", pa.float64(), "root of the mean square of the changes of all weights"),
            _field("where", pa.string(), "process, worker, or checkpoint: of an earlier command"),
            _field("worker", pa.string(), "host and process that ran it"),
            _field("seconds", pa.float64(), "of the tunings that ran together", "s"),
        ]
    ),
    "mixture": pa.schema(
        [
            _field("position", pa.int32(), "in the candidates of the search, from 0"),
            _field("kind", pa.string(), "recipe or offset"),
            _field("name", pa.string(), "the recipe; empty of an offset"),
            _field("label", pa.int32(), "of an offset, else -1"),
            _field("found", pa.float64(), "coefficient, or offset of the logit, of the search"),
            _field("taken", pa.float64(), "the same times the step: what is in the model"),
        ]
    ),
    "frontier": pa.schema(
        [
            _field("step", pa.float64(), "0: the model as it is; 1: the mixture as it was searched", "1"),
            _field("chance", pa.float64(), "that new rows keep all requirements", "1"),
            _field("met", pa.int32(), "requirements that the rows at hand keep", "requirements"),
            _field("gain", pa.float64(), "of the labels under repair, mean change of accuracy", "1"),
            _field("all", pa.float64(), "change of the accuracy of all rows", "1"),
            _field("worst", pa.float64(), "change of the other label that loses most; null without others", "1"),
            _field("worst_label", pa.int32(), "that label; -1 without others"),
            _field("fixed", pa.int64(), "rows right only after", "rows"),
            _field("broken", pa.int64(), "rows right only before", "rows"),
            _field("enough", pa.int64(), "rows of each label from which it could be promised; null: no number", "rows"),
            _field("taken", pa.bool_(), "the step of the saved model"),
        ]
    ),
    "promises": pa.schema(
        [
            *_REQUIREMENT,
            _field("value", pa.float64(), "on rows that no tuning saw: accuracy, drop, gain or rate", "1"),
            _field("low", pa.float64(), "lower end of where it lies on new rows, with 95 % chance", "1"),
            _field("high", pa.float64(), "upper end", "1"),
            _field("rows", pa.int64(), "counted on", "rows"),
            _field("new_rows", pa.int64(), "that the chance is about", "rows"),
            _field("met", pa.bool_(), "the value keeps to the limit"),
            _field("chance", pa.float64(), "that new rows keep the requirement", "1"),
            _field("promised", pa.bool_(), "the chance of all requirements together reaches the confidence"),
            _field("enough", pa.int64(), "rows of each label from which it would; null where no number would", "rows"),
        ]
    ),
    "outcomes": pa.schema(
        [
            _field("method", pa.string(), "as --method takes it"),
            _field("draw", pa.int32(), "of the repair rows, from 0"),
            _field(
                "reading",
                pa.string(),
                "found: what the method comes to where nobody chooses; chosen: by its own promise, or on validation "
                "rows, where the model as it is stands for election too; failed: it could not run",
            ),
            _field("offer", pa.string(), "which of its offers; `nothing` for the model as it is"),
            _field("note", pa.string(), "why it failed, or what else is to be said"),
            _field("seed", pa.int64(), "of everything random in the repair"),
            _field("rows", pa.int64(), "that it was made from", "rows"),
            _field("weights", pa.int64(), "whose values changed", "weights"),
            _field("gain", pa.float64(), "change of the accuracy of all labels under repair, on test rows", "1"),
            _field("all", pa.float64(), "change of the accuracy of all test rows", "1"),
            _field("worst", pa.float64(), "change of the other label that loses most; null without others", "1"),
            _field("worst_label", pa.int32(), "that label; -1 without others"),
            _field("fixed", pa.int64(), "test rows right only after", "rows"),
            _field("broken", pa.int64(), "test rows right only before", "rows"),
            _field("chance", pa.float64(), "that new rows keep all requirements; null where no row could judge", "1"),
            _field("promised", pa.bool_(), "the chance reaches the confidence"),
            _field("kept", pa.bool_(), "test rows keep all requirements"),
            _field("own", pa.float64(), "fitness of the model as it is by the objective of the method; null without"),
            _field("best", pa.float64(), "fitness of what was found by the same"),
            _field("where", pa.string(), "process or worker"),
            _field("worker", pa.string(), "host and process that ran it"),
            _field("seconds", pa.float64(), "of the method, without judging", "s"),
            _field("cpu", pa.float64(), "processor time that this took, in all threads", "s"),
            _field("ended", pa.float64(), "since the run began, without pauses between commands", "s"),
            _field("after", pa.list_(pa.int32()), "classes that the repaired model predicts for the test rows"),
        ]
    ),
    "predictions": pa.schema(
        [
            _field("split", pa.string(), "validation or test"),
            _field("row", pa.int64(), "row of the image set"),
            _field("label", pa.int32(), "true class"),
            _field("before", pa.int32(), "class the base model predicts"),
            _field(
                "after",
                pa.int32(),
                "class the saved repaired model predicts, loaded again; of a comparison `before` once more, as its "
                "repairs have theirs in `outcomes`",
            ),
        ]
    ),
}
"""All tables of a run; columns carry their description, and their unit where they have one, as field metadata."""

EVALUATION = pa.schema(
    [
        _field("setting", pa.string(), "what was swept, as its folder is called; empty where nothing was"),
        _field("run", pa.int32(), "number of the run, from 0"),
        _field("seed", pa.int64(), "seed of its search"),
        _field("label", pa.int32(), "true label under repair, -1 for several"),
        _field("num_grad", pa.int64(), "size of the pool of localisation", "weights"),
        _field("weights", pa.int64(), "localised weights", "weights"),
        _field("positive_weight", pa.float64(), "worth of all positives together", "negatives"),
        _field("iterations", pa.int32(), "iterations run", "iterations"),
        _field("fitness", pa.float64(), "best fitness on the search rows"),
        _field("stop", pa.string(), "solved, no gain or iterations"),
        *(
            field
            for split, wrong, right in (
                ("search", "negative inputs", "positive inputs"),
                ("validation", "rows of the label that the base model gets wrong", "rows that it gets right"),
                ("test", "rows of the label that the base model gets wrong", "rows that it gets right"),
            )
            for field in (
                _field(f"{split}_wrong", pa.int64(), wrong, "rows"),
                _field(f"{split}_repaired", pa.int64(), "of these, rows that the repaired model gets right", "rows"),
                _field(f"{split}_right", pa.int64(), right, "rows"),
                _field(f"{split}_broken", pa.int64(), "of these, rows that the repaired model gets wrong", "rows"),
                _field(f"{split}_rr", pa.float64(), "repair rate: repaired / wrong", "%"),
                _field(f"{split}_br", pa.float64(), "break rate: broken / right", "%"),
            )
        ),
    ]
)
"""The table of `evaluate`, one file `evaluate.arrow` of its own: a row per setting and run, in this order.

Nothing depends on where and when it ran. Where there were no such rows, columns are null.
"""

EVALUATION_BY_METHOD = pa.schema(
    [
        *EVALUATION,
        _field("method", pa.string(), "as --method takes it"),
        _field("offer", pa.string(), "which of its offers; `nothing` for the model as it is; null where it failed"),
        _field("changed", pa.int64(), "whose values changed", "weights"),
        _field("chance", pa.float64(), "that new rows keep all requirements; null where no row could judge", "1"),
        _field("promised", pa.bool_(), "the chance reaches the confidence"),
        _field("failed", pa.bool_(), "it could not run, and has no rates"),
        _field("note", pa.string(), "why it failed, or what else is to be said"),
    ]
)
"""The same for other methods than Arachne: columns of its searches are null, `fitness` is by their own objectives."""

OF_METHODS = frozenset({"tunings", "mixture", "frontier", "promises", "outcomes"})
"""Tables that only some methods write."""

KEYS: dict[str, list[str]] = {
    "tunings": ["recipe", "fold"],
    "mixture": ["position"],
    "frontier": ["step"],
    "promises": ["requirement"],
    "outcomes": ["method", "draw", "reading"],
    "swarm": ["job", "iteration"],
    "labels": ["job", "stage", "split", "label"],
    "jobs": ["job"],
    "patches": ["job", "rank", "position"],
    "verdicts": ["split", "requirement"],
    "predictions": ["split", "row"],
}

VOLATILE = frozenset({"chunk", "where", "worker", "host", "redispatched", "ended", "seconds", "cpu"})
"""Columns in which two equal runs may differ: time and place."""
