from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from engine.charts.bubbles import Bubbles, Grid, bubble_figure
from engine.charts.style import BLUE, GREEN, ORANGE, label_texts, shares_of
from engine.core.types import Int64

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_STYLES = ((BLUE, "o"), (ORANGE, "h"), (GREEN, "*"))
_SIDES = {1: (0,), 2: (-1, 1), 3: (-1, 0, 1)}
_LETTERS = 40
OVERLAY_DPI = 600


def confusion_figure(counts: Int64, label_names: Sequence[str] | None) -> Figure:
    """Confusions (C, C) of one model by [true, predicted]."""
    labels = _present(counts)
    shown = counts[np.ix_(labels, labels)]
    right = np.eye(len(labels), dtype=bool)
    shares = shares_of(shown, shown.sum(axis=1, keepdims=True))
    series = [
        Bubbles("right", np.where(right, shown, 0), np.where(right, shares, 0.0), BLUE),
        Bubbles("wrong", np.where(right, 0, shown), np.where(right, 0.0, shares), ORANGE),
    ]
    return bubble_figure(_grid(labels, labels, shown.sum(axis=1), label_names), series)


def overlay_figure(
    confusions: Sequence[tuple[str, Int64]], labels: Sequence[int] | None, label_names: Sequence[str] | None
) -> Figure:
    """Confusions (C, C) of up to three models on the same rows, each with what the legend says."""
    together = np.sum([counts for _, counts in confusions], axis=0)
    if labels is None:
        rows = columns = _present(together)
    else:
        rows = np.array(sorted(set(labels)), np.int64)
        columns = np.union1d(np.flatnonzero(together[rows].any(axis=0)), rows)
    series = []
    for line, ((legend, counts), (colour, marker)) in enumerate(zip(confusions, _STYLES, strict=False)):
        shown = counts[np.ix_(rows, columns)]
        shares = shares_of(shown, counts[rows].sum(axis=1, keepdims=True))
        side = _SIDES[len(confusions)][line]
        series.append(Bubbles(legend, shown, shares, colour, marker, solid=False, side=side, line=line))
    totals = confusions[0][1][rows].sum(axis=1)
    return bubble_figure(_grid(rows, columns, totals, label_names), series)


def _present(counts: Int64) -> Int64:
    return np.flatnonzero(counts.any(axis=0) | counts.any(axis=1))


def _grid(rows: Int64, columns: Int64, totals: Int64, label_names: Sequence[str] | None) -> Grid:
    row_list, column_list = rows.tolist(), columns.tolist()
    return Grid(
        rows=label_texts(row_list, label_names, _LETTERS),
        columns=label_texts(column_list, label_names, _LETTERS),
        row_title="true label",
        column_title="predicted label",
        totals=[str(total) for total in totals.tolist()],
        totals_title="images",
        shaded=[(at, column_list.index(label)) for at, label in enumerate(row_list) if label in column_list],
        percent=True,
        share_of="of the images of the true label",
    )
