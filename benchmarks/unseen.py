"""Repairs judged on rows apart: a pool of training images gives repair rows by draws, and the rest of it judges.

The official test images stand beside it and choose nothing. Features are computed once for each model.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from common import prepared_split

from engine import backend
from engine.core.types import Float32, Int64
from engine.data.row_digests import row_digests
from engine.datasets.fashion_mnist import DEFAULT_PREPROCESS, LABEL_NAMES
from engine.layers.dense_chain import DenseChain, chain_of
from engine.layers.tail_chain import Chain
from engine.metrics.accuracy import compare, total_change
from engine.metrics.requirements import Requirement, check_requirements
from engine.models.graph import graph_of
from engine.models.load import LoadedModel
from engine.passes.classes import batched, predicted_classes
from engine.problem.case import LayerInputs, SeenRows
from engine.problem.crossfit import CrossFit, CrossFitSettings, crossfit_of
from engine.targets.model_runner import ModelRunner
from engine.targets.of_chain import last_alone
from engine.targets.resolve import headed, resolve_target

LAST, TAIL = "last", "tail"
"""Layers under repair: the last Dense layer, and all Dense layers behind the last layer that is not one."""

Images = tuple[Float32, Int64]
"""Images (n, h, w, c) as a model takes them, and their classes (n,)."""

BLOCK_ROWS = 1000
"""Rows of one pass from the features on."""


def mixed_adds(chain: DenseChain, recipes: int) -> int:
    """Multiply-adds of a row under a mixture: the tunings of the first layer are mixed, and what comes of it passes
    through the others.
    """
    (_, first), *behind = (chain.values[layer.kernel].shape for layer in chain.layers)
    return int(recipes * first + sum(map(math.prod, behind)))


@dataclass(frozen=True)
class Outcome:
    """What a repair does to rows.

    Attributes:
        label, all, worst: change of the accuracy of the label under repair, of all rows and of the other label that
            loses most, in points.
        fixed, broken: rows.
        kept: all requirements hold.
    """

    label: float
    all: float
    worst: float
    fixed: int
    broken: int
    kept: bool


@dataclass(frozen=True, eq=False)
class Subject:
    """A model of which some layers are repaired.

    Attributes:
        loaded: the model.
        layers: `LAST` or `TAIL`, or names of others.
        chain: those layers, or others.
        pool: rows that draws are taken from, and that judge where they are not drawn.
        official: test rows.
    """

    loaded: LoadedModel
    layers: str
    chain: Chain
    pool: SeenRows
    official: SeenRows

    def job(
        self, drawn: Int64, label: int, requirements: Sequence[Requirement], seed: int, settings: CrossFitSettings
    ) -> CrossFit:
        """A repair of a label with rows of the pool."""
        rows = self.pool.rows.take(drawn)
        return crossfit_of(self.chain, rows, self.pool.logits[drawn], (label,), requirements, settings, seed)

    def predicted(self, known: SeenRows, values: Mapping[str, Float32]) -> Int64:
        """Classes (n,) of rows under new values of weights, by path."""
        logits = _logits(self._program, self.chain, known.rows.inputs, values)
        return predicted_classes(self.chain.head, logits)

    def outcome(
        self, known: SeenRows, after: Int64, chosen: Int64 | slice, label: int, requirements: Sequence[Requirement]
    ) -> Outcome:
        """What became of some rows; `after` (n,) are the classes of all."""
        classes = self.chain.classes
        comparison = compare(known.rows.labels[chosen], known.before[chosen], after[chosen], classes)
        changes = comparison.changes()

        def points(labels: Sequence[int]) -> float:
            total = total_change(changes, labels)
            return 100 * (total.correct_after - total.correct_before) / total.total

        return Outcome(
            label=points([label]),
            all=points([]),
            worst=min(points([change.label]) for change in changes if change.label != label),
            fixed=int(comparison.fixed.sum()),
            broken=int(comparison.broken.sum()),
            kept=all(verdict.met for verdict in check_requirements(requirements, comparison)),
        )

    def outcomes(
        self, values: Mapping[str, Float32], rest: Int64, label: int, requirements: Sequence[Requirement]
    ) -> dict[str, Any]:
        """What a repair does to the rest of the pool and to the official test rows."""
        judges: dict[str, tuple[SeenRows, Int64 | slice]] = {
            "rest": (self.pool, rest),
            "official": (self.official, slice(None)),
        }
        return {
            name: asdict(self.outcome(known, self.predicted(known, values), chosen, label, requirements))
            for name, (known, chosen) in judges.items()
        }

    @functools.cached_property
    def _program(self) -> Callable[..., Any]:
        program: Callable[..., Any] = self.chain.compiled(self.chain.logits)
        return program


def apart(dataset: Path, preprocess: str, offset: int) -> tuple[Images, Images]:
    """The pool: training images from an offset on; and the official test images."""
    return prepared_split(dataset, "train", preprocess, offset, None), prepared_split(
        dataset, "t10k", preprocess, 0, None
    )


def subjects(loaded: LoadedModel, pool: Images, official: Images, layers: Sequence[str]) -> dict[str, Subject]:
    """A model with each kind of layers under repair; the images pass through it once."""
    graph, head = headed(graph_of(loaded.model), loaded.loss, loaded.path)
    chain = chain_of(loaded.model, graph, head, loaded.path)
    target = resolve_target(loaded.model, loaded.loss, loaded.classes, loaded.path, [chain.layers[0].kernel])
    runner = ModelRunner(loaded.model, target, path=loaded.path)
    sets = [
        LayerInputs(runner.inputs(pixels), labels, row_digests(pixels), pixels.shape[1:], loaded.classes)
        for pixels, labels in (pool, official)
    ]
    found = {}
    for name in layers:
        own, rows = chain, sets
        if name == LAST:
            own = last_alone(chain, sets[0].inputs[:1])[0]
            rows = [
                LayerInputs(last_alone(chain, known.inputs)[1], known.labels, known.digests, known.shape, known.classes)
                for known in sets
            ]
        found[name] = Subject(loaded, name, own, *(_known(own, known) for known in rows))
    return found


def _known(chain: DenseChain, rows: LayerInputs) -> SeenRows:
    logits = _logits(backend.compiled(chain.logits), chain, rows.inputs, {})
    return SeenRows.of(chain.head, rows, logits)


def _logits(program: Callable[..., Any], chain: Chain, inputs: Float32, values: Mapping[str, Float32]) -> Float32:
    weights = {path: backend.on_device(values.get(path, value)) for path, value in chain.values.items()}
    return batched(lambda batch: program(batch, weights), inputs, BLOCK_ROWS)


def draw(pool: int, rows: int, label: int, number: int) -> tuple[Int64, Int64]:
    """Rows of a repair and the rest of the pool, both in random order: a pure function of label and number."""
    if rows >= pool:
        raise click.ClickException(f"{rows} rows of {pool} in the pool, expected fewer: the rest judges")
    order = np.random.default_rng(1000 * number + label).permutation(pool)
    return order[:rows], order[rows:]


def drop(limit: float, label: int | None = None) -> Requirement:
    """A loss of accuracy, at most a share, of a label or of all rows."""
    who = "all labels together" if label is None else f"label {label} {LABEL_NAMES[label]}"
    labels = None if label is None else (label,)
    return Requirement("max_drop", limit, labels, None, f"drop of {who} at most {100 * limit:g} points")


def gain(limit: float, label: int) -> Requirement:
    """A gain of accuracy, at least a share, of a label."""
    text = f"gain of label {label} {LABEL_NAMES[label]} at least {100 * limit:g} points"
    return Requirement("min_gain", limit, (label,), None, text)


def others_drop(limit: float, label: int) -> tuple[Requirement, ...]:
    """The loss of accuracy of each label but one."""
    return tuple(drop(limit, other) for other in range(len(LABEL_NAMES)) if other != label)


def numbers(context: Any, option: Any, text: str) -> tuple[int, ...]:
    """Numbers with commas between, of an option."""
    del context, option
    try:
        found = tuple(int(word) for word in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r}, expected numbers with commas between") from None
    return tuple(dict.fromkeys(found))


def words(*known: str) -> Callable[[Any, Any, str], tuple[str, ...]]:
    """Some of the known words, with commas between, of an option."""

    def chosen(context: Any, option: Any, text: str) -> tuple[str, ...]:
        del context, option
        found = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
        for word in found:
            if word not in known:
                raise click.BadParameter(f"{word!r}, expected some of {', '.join(known)} with commas between")
        return found

    return chosen


preprocess_option = click.option(
    "--preprocess", default=DEFAULT_PREPROCESS, show_default=True, help="What the model was trained with."
)

offset_option = click.option(
    "--offset", type=int, default=40_000, show_default=True, help="First training image of the pool of rows."
)
