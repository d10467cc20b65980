"""Repair and break rates: measured on a saved model, kept for a command that goes on, told in rows of a table."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.compute.compute import Compute
from cluster.runs.output import measuring
from engine.core.files import replace_file
from engine.core.progress import Tick
from engine.core.types import Int64
from engine.data.image_set import ImageSet
from engine.metrics.accuracy import paired_changes
from engine.metrics.repair_rates import Rates, held_out_rates, search_rates
from engine.models.load import LoadedModel, load_model

_COUNTS = ("wrong", "repaired", "right", "broken")


@dataclass(frozen=True, eq=False)
class RatedRows:
    """Rows by which repaired models are rated.

    Attributes:
        negatives: rows to repair.
        positives: rows to keep, or None.
        held_out: rows that no repair sees, by split: validation, test.
        label: under repair, -1 for several.
        before: classes (n,) that the model as it is predicts for held-out rows, by split.
    """

    negatives: ImageSet
    positives: ImageSet | None
    held_out: Mapping[str, ImageSet]
    label: int
    before: Mapping[str, Int64]

    @property
    def sets(self) -> dict[str, ImageSet]:
        """All rows by what they are for."""
        return sets_of(self.negatives, self.positives, self.held_out)

    def rates(self, after: Mapping[str, Int64]) -> dict[str, Rates]:
        """Rates by split, from classes (n,) that a repaired model predicts for each of the sets."""
        nothing = np.empty(0, np.int64)
        found = {
            "search": search_rates(
                self.negatives.labels,
                after["negative"],
                nothing if self.positives is None else self.positives.labels,
                after.get("positive", nothing),
            )
        }
        for split, images in self.held_out.items():
            changes = paired_changes(images.labels, self.before[split], after[split], images.classes)
            found[split] = held_out_rates(changes, self.label)
        return found


def sets_of(negatives: ImageSet, positives: ImageSet | None, held_out: Mapping[str, ImageSet]) -> dict[str, ImageSet]:
    """All rows by what they are for: negative, validation, test, positive."""
    found = {"negative": negatives, **held_out}
    return found if positives is None else {**found, "positive": positives}


def measured(model: LoadedModel, saved: Path, rows: RatedRows, compute: Compute, tick: Tick) -> dict[str, Rates]:
    """Rates by split of a repaired model that was saved, loaded again.

    Args:
        model: that was repaired.
        saved: path of its repaired form.
        rows: to rate by.
        compute: where.
        tick: progress over all rows.

    Raises:
        WorkError: outputs are not numbers, and the model was removed.
    """
    reloaded = compute.handle(load_model(saved, allow_custom_code=model.allow_custom_code))
    with _without_words(compute), measuring(saved):
        after = {name: compute.predict(reloaded, images, tick) for name, images in rows.sets.items()}
    return rows.rates(after)


def warn_of_others(
    folder: Path, model: LoadedModel, others: npt.NDArray[np.bool_], word: str, warn: Callable[[str], None]
) -> None:
    """Say where the rates mean little, because another model divided the rows into negatives and positives.

    Args:
        folder: of the rows.
        model: to repair.
        others: (n,) rows that it would have put elsewhere.
        word: what it gets them.
        warn: is told.
    """
    if others.any():
        warn(
            f"{folder}: {model.path} gets {others.sum()} of {len(others)} rows {word} as it is; they count all the "
            "same, but `target` with this model would not have put them there"
        )


def keep_rates(path: Path, rates: Mapping[str, Rates]) -> None:
    """Write the rates of a run that was measured."""
    with replace_file(path) as temporary:
        temporary.write_text(json.dumps({split: asdict(found) for split, found in rates.items()}))


def kept_rates(path: Path) -> dict[str, Rates] | None:
    """The rates of a run that was measured before; None where it was not."""
    if not path.is_file():
        return None
    return {split: Rates(**found) for split, found in json.loads(path.read_text()).items()}


def rate_cells(rates: Mapping[str, Rates]) -> dict[str, Any]:
    """Rates as cells of the table of `evaluate`; what is not a number is null."""
    found = {}
    for split, mine in rates.items():
        for name in (*_COUNTS, "rr", "br"):
            value = getattr(mine, name)
            found[f"{split}_{name}"] = None if math.isnan(value) else value
    return found


def rates_of_row(row: Mapping[str, Any], held_out: Mapping[str, ImageSet]) -> dict[str, Rates]:
    """The rates that a row of that table tells."""
    return {split: Rates(**{name: row[f"{split}_{name}"] for name in _COUNTS}) for split in ("search", *held_out)}


@contextmanager
def _without_words(compute: Compute) -> Iterator[None]:
    """Each of many models is run on the same few sets: where, has been said."""
    say, compute.say = compute.say, lambda _: None
    try:
        yield
    finally:
        compute.say = say
